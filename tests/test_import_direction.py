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


def imports_of(
    source: str, node: ast.AST, inside_function: bool = False, *, type_checking: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        is_type_checking = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if is_type_checking and not type_checking:
            continue  # never runs
        if isinstance(child, ast.Import):
            yield from (Import(source, name.name, inside_function) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{source} imports relatively; the rest of the project does not"
            yield from (Import(source, f"{child.module}.{name.name}", inside_function) for name in child.names)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_of(source, child, inside_function or is_function, type_checking=type_checking)


TREES = {name: ast.parse(file.read_text()) for name, file in modules().items()}
IMPORTS = [found for name, tree in TREES.items() for found in imports_of(name, tree)]
ALL_IMPORTS = [found for name, tree in TREES.items() for found in imports_of(name, tree, type_checking=True)]


def test_the_sources_were_found():
    assert Import("famba_core.training.trainer", "famba_core.models.registry.build_model", False) in IMPORTS
    assert Import("famba_core.data.digits", "sklearn.datasets.load_digits", True) in IMPORTS
    assert any(found.source.startswith("sweep.") and found.target.startswith("famba_core.") for found in IMPORTS)


def test_famba_core_knows_nothing_of_sweeps():
    forbidden = {"sweep", "ray", "optuna", "pandas", "pydantic", "matplotlib", "rich", "yaml", "jinja2"}
    found = [i for i in IMPORTS if i.source.startswith("famba_core") and i.target.split(".")[0] in forbidden]
    plots = [i for i in found if i.source in ("famba_core.bench.plot", "famba_core.figures") and i.inside_function]
    assert [i for i in found if i not in plots or i.target.split(".")[0] != "matplotlib"] == []


def test_decoders_are_imported_only_inside_functions_of_data_arrow_and_bench():
    found = [i for i in IMPORTS if i.source.startswith("famba_core") and i.target.split(".")[0] in DECODERS]
    places = ("famba_core.arrow", "famba_core.bench", "famba_core.data")
    assert [i for i in found if not i.inside_function or not i.source.startswith(places)] == []


def test_the_kernels_and_the_fusion_know_no_model():
    below = ("famba_core.ops", "famba_core.fusion")
    known = {i.target for i in IMPORTS if i.source.startswith(below) and i.target.startswith("famba_core")}
    assert {
        name
        for name in known
        if not name.startswith((*below, *("famba_core." + name for name in ("config", "device", "errors", "files"))))
    } == set()


# Bottom to top. A module beside the folders is named like a folder of its own.
ORDER = {
    "famba_core": (
        "errors", "files", "arrow", "figures", "palette", "version", "semantics", "backbones", "config", "device",
        "paper", "fusion", "ops", "models", "data", "cost", "training", "bench", "cli",
    ),
    "sweep": (
        "errors", "text", "terminal", "schema", "files", "grid", "store", "plan", "executors", "price", "report",
        "search", "worker", "run", "cli",
    ),
}  # fmt: skip


def folder_of(module: str) -> tuple[str, str]:
    """("sweep", "store") for sweep.store.study; the second is "" for the package itself."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def arrows(package: str) -> set[tuple[str, str]]:
    """(importing module, imported module) within a package, TYPE_CHECKING imports included."""
    known = modules()
    found = set()
    for each in ALL_IMPORTS:
        target = next((name for name in (each.target, each.target.rpartition(".")[0]) if name in known), None)
        if target and each.source.startswith(package) and target.startswith(package):
            found.add((each.source, target))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_import_only_from_folders_below(package):
    order = ORDER[package]
    upward = [
        f"{source} -> {target}"
        for source, target in sorted(arrows(package))
        if folder_of(source)[1]  # the package's own names may come from anywhere
        and order.index(folder_of(source)[1]) < order.index(folder_of(target)[1])
    ]
    assert upward == []


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_form_no_cycle(package):
    graph: dict[str, set[str]] = {}
    for source, target in arrows(package):
        graph.setdefault(source, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_has_a_place_in_the_order(package):
    assert {folder_of(module)[1] for module in modules() if module != package and module.startswith(package)} == set(
        ORDER[package]
    )
