"""Figures do not change with the user's MPLBACKEND and matplotlibrc, and no setting of the user's is changed."""

import os
import subprocess
import sys

import pytest

NOT_INSTALLED = "module://not_installed.backend_inline"
# draws a benchmark's figure, then tells what the user's own figures have
PROGRAM = """
import sys
from pathlib import Path
from famba_core.bench.plot import write_plot
from famba_core.bench.rows import BenchRow

row = BenchRow(section="scan", name="scan", backend="torch", precision="fp32", backbone="vim_nano", device="cpu",
               batch=1, tokens=17, layers=4, versions="", images_per_s=10.0)
write_plot([row], Path(sys.argv[1]))
import matplotlib
print(matplotlib.rcParams["font.size"], matplotlib.rcParams["backend"])
"""


def draw(folder, backend=None, settings=""):
    """Return the bytes of both figures, and what the program printed."""
    folder.mkdir()
    (folder / "matplotlibrc").write_text(settings)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    if backend is not None:
        environment["MPLBACKEND"] = backend
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [(folder / f"bench.{kind}").read_bytes() for kind in ("svg", "png")], done.stdout.split()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    figures, _ = draw(tmp_path_factory.mktemp("plain") / "figures")
    return figures


@pytest.mark.parametrize("backend", [NOT_INSTALLED, "no_such_backend", "TkAgg", ""])
def test_figures_need_no_backend(plain, tmp_path, backend):
    assert draw(tmp_path / "figures", backend)[0] == plain


def test_the_matplotlibrc_of_the_current_folder_changes_no_byte_and_is_left_as_it_is(plain, tmp_path):
    settings = (
        "text.usetex: True\nfont.size: 30\nfont.family: serif\nlines.linewidth: 9\nfigure.dpi: 20\nsavefig.dpi: 20\n"
        "savefig.bbox: tight\nsavefig.transparent: True\nsvg.fonttype: none\naxes.formatter.use_locale: True\n"
    )
    figures, (font_size, backend) = draw(tmp_path / "figures", "svg", settings)
    assert figures == plain
    assert (font_size, backend) == ("30.0", "svg")
