"""`famba-sweep init`: looks at a folder of images, says what it found, and writes a first grid for it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from famba_core.errors import Problem
from famba_core.files import write_atomically
from sweep.errors import UserError
from sweep.text import plural

if TYPE_CHECKING:
    from famba_core.data.folder_facts import FolderFacts

FEW_TO_TRAIN = 50  # images of a class
FEW_TO_TEST = 500  # images; with fewer, chance moves top-1 by points
IMBALANCE = 5  # images of the largest class over those of the smallest
LISTED = 3  # sizes of images
WIDEST = 100  # characters of a line


def write_first_grid(folder: Path, grid: Path | None, *, force: bool) -> Path:
    """Print what `folder` holds and write a grid for it; return the grid's path.

    Args:
        grid: the file to write; None takes the folder's name, in the current folder.
        force: replace the file if it exists.

    Raises UserError for a folder that cannot be trained on, with every problem, and for a file that cannot be written.
    """
    name = _plain_name(folder)
    grid = grid or Path(f"{name}.yaml")
    if os.path.lexists(grid) and not force:
        raise UserError("exists already; --force replaces it, a second argument names another file", grid)
    facts = _inspect(folder)
    print(folder)
    for line in _describe(facts):
        _print_wrapped(line, indent=11)
    if facts.problems:
        raise UserError(Problem(str(folder), "", sentence) for sentence in facts.problems)
    for warning in _warnings(facts):
        _print_wrapped(f"note: {warning}")
    _write(grid, _compose(facts, folder, name, grid), force=force)
    return grid


def print_next(grid: Path, price: Sequence[str]) -> None:
    """Print what was written, its price and the next commands."""
    print(f"\n{grid} is written: no fusion and four strategies, three seeds each")
    for sentence in price:
        _print_wrapped(sentence)
    quoted = shlex.quote(str(grid))
    print(f"\nnext:\n  famba-sweep plan {quoted}    every trial and its price; trains nothing")
    print(f"  famba-sweep {quoted} --yes   train, then write the report")


def _inspect(folder: Path) -> FolderFacts:
    from famba_core.data.folder_facts import inspect_folder

    if not os.path.isdir(folder):
        raise UserError("is not a folder" if os.path.exists(folder) else "there is no such folder", folder)
    try:
        return inspect_folder(folder)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", error.filename) from error


def _compose(facts: FolderFacts, folder: Path, name: str, grid: Path) -> str:
    import torch

    from sweep.grid.first_grid import compose_grid

    gpu_gib = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None
    return compose_grid(
        facts,
        study=name,
        file=shlex.quote(str(grid)),
        data_dir=os.path.abspath(folder),
        gpu_gib=gpu_gib,
    )


def _write(grid: Path, text: str, *, force: bool) -> None:
    try:
        write_atomically(grid, text.encode(), replace=force)
    except FileExistsError:
        raise UserError("exists already; --force replaces it", grid) from None
    except UnicodeEncodeError:
        raise UserError("a path that is not text in UTF-8 cannot be written into a grid", grid) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", grid) from error


def _plain_name(folder: Path) -> str:
    """Return the folder's name as a study's: letters, digits, _ and -, not starting with -."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(os.path.abspath(folder)).name).strip("_-")[:100] or "images"


def _describe(facts: FolderFacts) -> Iterator[str]:
    """Yield what was found, a line for each topic."""
    for split, classes in facts.counts.items():
        unused = ", not used" if split not in ("train", facts.test_split) else ""
        counts = sorted(classes.values())
        each = f", {_range(counts)} in each" if counts else ""
        yield f"  {split + '/':<9}{plural(sum(counts), 'image')} in {_classes(len(classes))}{each}{unused}"
    if facts.sizes:
        sizes = [f"{width} x {height} ({count})" for (width, height), count in facts.sizes.most_common(LISTED)]
        formats = [f"{name} ({count})" for name, count in facts.formats.most_common()]
        if len(facts.sizes) > LISTED:
            sizes.append(plural(len(facts.sizes) - LISTED, "other size"))
        yield f"  {'sizes':<9}{', '.join(sizes)}"
        yield f"  {'formats':<9}{', '.join(formats)}{'; all grey' if facts.grey else ''}"


def _warnings(facts: FolderFacts) -> Iterator[str]:
    """Yield what can be trained on and is worth knowing."""
    train, test = facts.counts["train"], facts.counts[facts.test_split]
    (few_name, few), (many_name, many) = (pick(train.items(), key=lambda item: item[1]) for pick in (min, max))
    total = sum(test.values())
    if len(train) == 1:
        yield f"{many_name} is the only class: there is nothing to tell apart"
    if few < FEW_TO_TRAIN:
        yield f"class {few_name} has {plural(few, 'training image')}; models that train from scratch need hundreds"
    if total < FEW_TO_TEST:
        yield f"{facts.test_split}/ has {plural(total, 'image')}: one of them is {100 / total:.1f} points of top-1"
    if many >= IMBALANCE * few:
        share = 100 * max(test.values()) / total
        yield (
            f"class {many_name} has {many} training images and {few_name} {few}; naming the largest class every time "
            f"gives a top-1 of {share:.0f} %"
        )
    if len(facts.sizes) > 1:
        longest = max(max(size) / min(size) for size in facts.sizes)
        cut = f", which cuts off up to {100 - 100 / longest:.0f} % of an image" if longest > 1.1 else ""
        yield f"images have {len(facts.sizes)} sizes; each is scaled by its shorter side and cut to its centre{cut}"
    if facts.test_split == "test":
        yield "test/ is used to choose the best epoch; keep other images for a final test"


def _print_wrapped(sentence: str, indent: int = 2) -> None:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    following = " " * indent
    print(textwrap.fill(sentence, width, subsequent_indent=following, break_long_words=False, break_on_hyphens=False))


def _range(counts: list[int]) -> str:
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number} classes"
