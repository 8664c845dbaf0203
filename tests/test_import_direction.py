"""What may import what, read from the sources: data flows one way, and heavy libraries stay where they are needed."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("famba_core", "sweep")
DECODERS = {"pyarrow", "PIL", "sklearn", "huggingface_hub"}


class Import(NamedTuple):
    source: str  # the importing module
    target: str  # what follows `import`, or `from` with its name: famba_core.config, famba_core.config.ModelConfig
    inside_function: bool


def modules() -> dict[str, Path]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports_of(source: str, node: ast.AST, inside_function: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue  # never runs
        if isinstance(child, ast.Import):
            yield from (Import(source, name.name, inside_function) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{source} imports relatively; the rest of the project does not"
            yield from (Import(source, f"{child.module}.{name.name}", inside_function) for name in child.names)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_of(source, child, inside_function or is_function)


IMPORTS = [found for name, file in modules().items() for found in imports_of(name, ast.parse(file.read_text()))]


def test_the_sources_were_found():
    assert Import("famba_core.train", "famba_core.models.vim.build_model", False) in IMPORTS
    assert Import("famba_core.data.digits", "sklearn.datasets.load_digits", True) in IMPORTS
    assert any(found.source.startswith("sweep.") and found.target.startswith("famba_core.") for found in IMPORTS)


def test_famba_core_knows_nothing_of_sweeps():
    forbidden = {"sweep", "ray", "optuna", "pandas", "pydantic", "matplotlib", "rich", "yaml", "jinja2"}
    found = [i for i in IMPORTS if i.source.startswith("famba_core") and i.target.split(".")[0] in forbidden]
    plots = [i for i in found if i.source == "famba_core.bench.plot" and i.inside_function]
    assert [i for i in found if i not in plots or i.target.split(".")[0] != "matplotlib"] == []


def test_decoders_are_imported_inside_functions_of_data_and_the_bench_alone():
    found = [i for i in IMPORTS if i.source.startswith("famba_core") and i.target.split(".")[0] in DECODERS]
    assert [
        i for i in found if not i.inside_function or not i.source.startswith(("famba_core.data", "famba_core.bench"))
    ] == []


def test_the_kernels_and_the_fusion_know_no_model():
    below = ("famba_core.scan", "famba_core.fusion")
    known = {i.target for i in IMPORTS if i.source.startswith(below) and i.target.startswith("famba_core")}
    assert {name for name in known if not name.startswith((*below, "famba_core.config"))} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_form_no_circle(package):
    known = modules()

    def module_of(target: str) -> str | None:
        return next((name for name in (target, target.rpartition(".")[0]) if name in known), None)

    arrows: dict[str, set[str]] = {}
    for found in IMPORTS:
        target = module_of(found.target)
        if found.source.startswith(package) and target is not None and target.startswith(package):
            arrows.setdefault(found.source, set()).add(target)
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError
