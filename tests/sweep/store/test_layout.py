"""The file names of a study: StudyPaths alone knows them."""

import ast
from pathlib import Path

from sweep.store.layout import StudyPaths, is_compacted_file

ROOT = Path("study")
PATHS = StudyPaths(ROOT)
ALL = [path for name in vars(StudyPaths) if isinstance(path := getattr(PATHS, name), Path)]


def test_every_name_is_a_path_in_the_study():
    assert len(ALL) == 16
    assert all(path.is_relative_to(ROOT) for path in ALL)
    assert PATHS.checkpoint("a") == ROOT / "checkpoints" / "a"
    assert PATHS.rung("group", 3) == ROOT / "rungs" / "group" / "3"
    assert PATHS.log("a.1") == ROOT / "logs" / "a.1.txt"


def test_the_manifest_and_files_in_compacted_are_compacted_files():
    assert is_compacted_file(PATHS.manifest)
    assert is_compacted_file(PATHS.compacted / "trials-1.copy")
    assert not is_compacted_file(PATHS.trials / "a.1.parquet")


def test_no_other_module_joins_a_path_with_one_of_these_names():
    names = {path.name for path in ALL}
    sources = Path(__file__).parents[3] / "sweep"
    found = [
        f"{file.relative_to(sources)}:{node.lineno}"
        for file in sorted(sources.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant) and node.right.value in names
    ]
    assert found == []
