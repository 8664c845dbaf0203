"""Reads a grid file as plain Python values; spec.py gives them their meaning."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from famba_core.errors import Problem
from sweep.errors import UserError

STDIN = Path("-")  # in place of a file
MOST_BYTES = 2**20  # some ten thousand cases; parsing as many takes half a minute
MOST_VALUES = 100_000  # aliases included: with them a few lines can stand for more values than fit in memory
MOST_DIGITS = 100  # of a whole number


def read_yaml(path: Path) -> tuple[object, list[Problem]]:
    """Return the values of a YAML file ("-": of the standard input), and a problem for each key that is given twice.

    Raises UserError, with one sentence, for a file that cannot be read or does not parse.
    """
    try:
        loader = _Loader(_read(path).decode("utf-8-sig"))
        document = loader.get_single_data()
    except UserError:  # a ValueError too
        raise
    except FileNotFoundError:
        raise UserError("there is no such file; a grid is one such as grids/starting_layer.yaml", path) from None
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"it is not text in UTF-8 (byte {error.start + 1} is no part of it)", path) from error
    except yaml.MarkedYAMLError as error:
        raise UserError(_explain(error), path) from error
    except RecursionError as error:
        raise UserError("its mappings and lists are nested too deeply", path) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"it is not YAML: {' '.join(str(error).split())}", path) from error
    return document, [Problem(str(path), f"line {line}", sentence) for line, sentence in loader.repeated_keys]


def _read(path: Path) -> bytes:
    """Return the content of a file or the standard input. Other pipes and devices are refused: they may never end."""
    from_stdin = path == STDIN
    mode = stat.S_IFREG if from_stdin else path.stat().st_mode
    if stat.S_ISDIR(mode):
        images = f"`famba-sweep init {path}` writes one if this is a folder of images"
        raise UserError(f"it is a folder; a grid is a file such as grids/starting_layer.yaml, and {images}", path)
    if not stat.S_ISREG(mode):
        raise UserError("it is not a file; - reads a grid from the standard input", path)
    with open(0 if from_stdin else path, "rb", closefd=not from_stdin) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"it has more than {MOST_BYTES} bytes, and no grid needs as many", path)
    return content


class _Refused(yaml.MarkedYAMLError):
    """Something that YAML allows and a grid does not."""


class _Loader(yaml.SafeLoader):
    """Loads plain values, and not too many. YAML lets a later key replace an earlier one silently; here it is noted."""

    def __init__(self, text: str):
        super().__init__(text)
        self.repeated_keys: list[tuple[int, str]] = []

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node and _count(node, {}) > MOST_VALUES:
            sentence = f"comes to more than {MOST_VALUES} values with its aliases, and no grid needs as many"
            raise _Refused(problem=sentence, problem_mark=node.start_mark)
        return node

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            kind = tag.removeprefix("tag:yaml.org,2002:")
            sentence = f"has a tag ({kind}), and a grid holds only plain text, numbers, lists and mappings"
            raise _Refused(problem=sentence, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        # Half of a surrogate pair, which an escape can write, can be neither a file's name nor printed.
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
            raise _Refused(problem="holds a character that is not text", problem_mark=node.start_mark)
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MOST_DIGITS:
            sentence = f"is a number of {len(node.value)} digits, and {MOST_DIGITS} are the most"
            raise _Refused(problem=sentence, problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before `<<` is merged: a mapping may replace a key that it merges in.
        node = super().compose_mapping_node(anchor)
        first_lines: dict[object, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in first_lines:
                self.repeated_keys.append((line, f"{key!r} was given in line {first_lines[key]} already; keep one"))
            first_lines.setdefault(key, line)
        return node


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values in a node, at most one above the limit. Raises _Refused if it holds itself."""
    if id(node) not in counts:
        counts[id(node)] = 0  # until its content is counted
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        counts[id(node)] = min(1 + sum(_count(each, counts) for each in inner), MOST_VALUES + 1)
    elif counts[id(node)] == 0:
        raise _Refused(problem="holds itself, by an alias", problem_mark=node.start_mark)
    return counts[id(node)]


# YAML 1.1 reads 1.0e-3 as a number but 1e-3 as text; who writes `lr: 1e-3` means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
# A grid has no dates, times or octal numbers: 2026-11-21, 1:30 (90 in YAML 1.1), 010 (8 in YAML 1.1) and = are text.
_AS_TEXT = "tag:yaml.org,2002:str", re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?$|[-+]?0[\d_]+$")
_NOT_IN_A_GRID = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
_Loader.yaml_implicit_resolvers = {
    first: [_AS_TEXT, *((tag, pattern) for tag, pattern in resolvers if tag not in _NOT_IN_A_GRID)]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _explain(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it"
    if isinstance(error, _Refused):
        return f"{place} {error.problem}"
    return f"{place} does not parse as YAML: {', '.join(part for part in (error.context, error.problem) if part)}"
