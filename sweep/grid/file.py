"""A grid file -> plain Python values. What they mean is for `spec` to say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import Problem, UserError


def read_yaml(path: Path) -> tuple[object, list[Problem]]:
    """The values of a YAML file, and a problem for each key that is given twice.

    Raises UserError, with one sentence, for a file that cannot be read or does not parse.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        document = loader.get_single_data()
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file; a grid is one such as grids/starting_layer.yaml") from None
    except OSError as error:
        raise _unreadable(path, f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not text in UTF-8 (byte {error.start + 1} is no part of it)") from error
    except yaml.MarkedYAMLError as error:
        raise _unreadable(path, _explain(error)) from error
    except RecursionError as error:
        raise _unreadable(path, "its mappings and lists are nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(path, f"it is not YAML: {' '.join(str(error).split())}") from error
    return document, [Problem(str(path), f"line {line}", sentence) for line, sentence in loader.repeated_keys]


class _Loader(yaml.SafeLoader):
    """Plain values only. YAML lets a later key replace an earlier one in silence; here every repeat is kept."""

    def __init__(self, text: str):
        super().__init__(text)
        self.repeated_keys: list[tuple[int, str]] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Seen here, before `<<` merges: a key beside a merge that names it too is meant to replace it.
        node = super().compose_mapping_node(anchor)
        first_lines: dict[object, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in first_lines:
                self.repeated_keys.append((line, f"{key!r} was given in line {first_lines[key]} already; keep one"))
            first_lines.setdefault(key, line)
        return node


# YAML 1.1 reads 1e-3 as text and only 1.0e-3 as a number; everyone who writes `lr: 1e-3` means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
# A grid holds no dates and no times: 2026-11-21 is a name, and so is 1:30, which YAML 1.1 reads as 90.
_TIME = "tag:yaml.org,2002:str", re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?$")
_Loader.yaml_implicit_resolvers = {
    first: [_TIME, *((tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _explain(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it"
    what, _, tag = (error.problem or "").rpartition(" ")
    if what == "could not determine a constructor for the tag":
        kind = tag.strip("'").removeprefix("tag:yaml.org,2002:")
        return f"{place} asks for an object ({kind}), and a grid holds only text, numbers, lists and mappings"
    return f"{place} does not parse as YAML: {', '.join(part for part in (error.context, error.problem) if part)}"


def _unreadable(path: Path, sentence: str) -> UserError:
    return UserError([Problem(str(path), "", sentence)])
