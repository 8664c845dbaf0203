"""`famba-sweep` as a user types it, each call in a process of its own."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sweep
from famba_core.version import VERSION
from sweep.cli.main import main

GRID = """\
study: tiny
reference_patches: 196
baselines: [{strategy: none}]
cases:
  - {strategy: upper, start_layer: 6, r: 9}
  - {strategy: upper, start_layer: 5, r: 9}
profiles:
  seconds: {backbone: vim_nano, dataset: digits, train_images: 64, image_size: 8, patch_size: 1, epochs: 1,
            batch_size: 32, ema: false}
"""
SLOW = GRID.replace("epochs: 1,", "epochs: 100000,")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(GRID)
    return file


def famba_sweep(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL, timeout=200)


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys\nfrom sweep.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    for arguments in (["--help"], ["run", "--help"], ["plan", "--help"], ["init", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "famba-sweep" in done.stdout


def test_a_grid_runs_resumes_and_reports(grid: Path, tmp_path: Path) -> None:
    run = ("run", grid, "--executor", "in-process", "--out", tmp_path / "out")
    first = famba_sweep(*run, "--limit", 2)
    assert first.returncode == 0, first.stderr
    assert "2 of 2 trials completed" in first.stdout
    study = tmp_path / "out" / "tiny-seconds"
    before = {part: part.stat().st_mtime_ns for part in (study / "trials").iterdir()}
    assert len(before) == 2

    second = famba_sweep(*run)
    assert second.returncode == 0, second.stderr
    assert "1 of 3 trials to train" in second.stdout
    assert {part: part.stat().st_mtime_ns for part in before} == before
    rows = sweep.load_results(study)
    assert len(rows) == 3
    assert (rows["status"] == "completed").all()
    assert rows["train_time_s"].gt(0).all()
    assert sorted(rows["reduced_tokens"]) == [0, 56, 59]
    for file in ("index.html", "frontier.svg", "frontier.png", "table.md", "table.tex", "table.csv"):
        assert (study / "report" / file).stat().st_size > 0

    third = famba_sweep(*run)
    assert "to train" not in third.stdout
    assert "3 of 3 trials completed" in third.stdout

    status = famba_sweep("status", study)
    assert status.returncode == 0
    assert "3 trials planned: 3 completed" in status.stdout
    report = famba_sweep("report", study)
    assert report.returncode == 0
    assert "index.html" in report.stdout


def test_the_plan_trains_nothing(grid: Path, tmp_path: Path) -> None:
    shown = famba_sweep("plan", grid, "--limit", 2, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "2 of 3 trials" in shown.stdout
    assert "upper from layer 6, r 9" in shown.stdout
    assert "upper from layer 5" not in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_the_plan_names_its_price_and_where_that_comes_from(grid: Path, tmp_path: Path) -> None:
    first = famba_sweep("plan", grid, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "of one CPU thread (no stored row of this device yet: a factor of 2 either way)" in first.stdout
    assert re.search(r"wall time: about .* on this machine, \d+ at a time", first.stdout)
    assert "warning" not in first.stdout
    limited = famba_sweep("plan", grid, "--time-limit", "1e-9", "--max-concurrent", 1, cwd=tmp_path)
    assert "on this machine, 1 at a time" in limited.stdout
    assert "missing trials fit in the limit of 1e-09 hours; the same command then continues" in limited.stdout


def test_the_plan_of_a_search_lists_its_candidates(grid: Path, tmp_path: Path) -> None:
    space = "search: {kind: optuna, trials: 5}\nspace: {strategy: upper, start_layer: {from: 1, to: 24}, r: 8}\n"
    grid.write_text(GRID[: GRID.index("cases:")] + space + GRID[GRID.index("profiles:") :])
    shown = famba_sweep("plan", grid, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    # r 8 asks too much of 197 tokens from layer 1: 25 x 8 > 196
    assert "a search (tpe) tries 5 of 23 candidates (1 combinations that cannot run are left out)" in shown.stdout
    assert len(re.findall(r"(?m)^vim_nano-", shown.stdout)) == 1 + 20
    everything = famba_sweep("plan", grid, "--limit", 100, cwd=tmp_path)
    assert len(re.findall(r"(?m)^vim_nano-", everything.stdout)) == 1 + 23


def test_a_closed_pipe_is_not_an_error(grid: Path) -> None:
    command = f"{sys.executable} -m sweep.cli plan {grid} --profile seconds | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_without_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    monkeypatch.setattr("sweep.cli.commands.doctor", lambda options: print("no number: –") or 0)
    assert main(["doctor"]) == 0
    assert ascii_only.buffer.getvalue() == b"no number: ?\n"  # type: ignore[attr-defined]


def test_a_command_that_is_asked_to_end_says_so() -> None:
    program = """if True:
        import time, sweep.cli.main, sweep.cli.commands
        sweep.cli.commands.doctor = lambda options: print("here", flush=True) or time.sleep(60)
        raise SystemExit(sweep.cli.main.main(["doctor"]))"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "\nfamba-sweep: stopped\n")


def test_a_long_run_asks_first(grid: Path, tmp_path: Path) -> None:
    grid.write_text(SLOW)
    asked = famba_sweep(grid, "--out", tmp_path / "out")
    assert asked.returncode == 2
    assert "3 trials take about" in asked.stderr
    assert "--yes" in asked.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep.cli", "famba_core.cli", "famba_core.bench.cli"])
def test_every_command_line_shows_the_version(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[1]) == (0, VERSION), done.stderr


def test_a_studys_folder_is_not_a_grid(tmp_path: Path) -> None:
    (tmp_path / "plan.json").touch()
    for words in ([tmp_path], ["plan", tmp_path]):
        done = famba_sweep(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is a study's folder, not a grid; `famba-sweep status` and `report` take it" in done.stderr


def test_a_grid_comes_from_the_standard_input(grid: Path, tmp_path: Path) -> None:
    for text, code, output in (
        (GRID, 0, "3 of 3 trials"),
        (GRID.replace("upper", "uper", 1), 2, "did you mean upper?"),
    ):
        command = [sys.executable, "-m", "sweep.cli", "plan", "-", "--out", str(tmp_path / "out")]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, output in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        (["GRID", "--profile", "huge"], ["huge", "seconds"]),
        (["GRID", "--executor", "in-process", "--address", "auto"], ["--address needs --executor ray"]),
        (["rnu", "GRID"], ["'rnu' is neither a command nor a grid file; did you mean run? choose from run, init, "]),
        (["."], ["it is a folder; a grid is a file such as", "`famba-sweep init .` writes one"]),
        (["GRID", "--executor", "in-process", "--out", "GRID"], ["--out: ", "tiny.yaml is not a folder; name another"]),
        (["GRID", "--limit", "0"], ["'0' is not a whole number above 0"]),
        (["GRID", "--gpus-per-trial", "2"], ["--gpus-per-trial: must be from 0 to 1, not 2"]),
        (["GRID", "--gpus-per-trial", "all"], ["'all' is not a number"]),
        (["GRID", "--time-limit", "nan"], ["'nan' is not a number"]),
        (["GRID", "--max-concurrent", "1.5"], ["'1.5' is not a whole number above 0"]),
        (
            ["plan", "GRID", "--gpu-hours", "3", "--accelerator-type", "H100"],
            [
                "--gpu-hours: is for GPUs, and profile seconds trains on the CPU",
                "--accelerator-type: is for GPUs",
            ],
        ),
        (["GRID", "--executor", "in-process", "--trial-time-limit", "1"], ["--trial-time-limit needs --executor ray"]),
        (["GRID", "--gpus-per-trial", "1", "--gpu-memory", "0.5"], ["none needs about", "in the ", "0.5 GiB of GPU"]),
        (["compact", "nowhere"], ["nowhere"]),
        (["GRID", "--executor", "slurm"], ["slurm", "in-process"]),
        (["status", "nowhere"], ["nowhere", "a study's folder looks like results/<study>-<profile>"]),
        (["report", "nowhere"], ["nowhere", "a study's folder looks like results/<study>-<profile>"]),
        (["data", "mnist"], ["mnist", "cifar100"]),
        ([], []),
    ],
)
def test_wrong_input_costs_a_sentence(arguments: list[str], sentences: list[str], grid: Path, tmp_path: Path) -> None:
    done = famba_sweep(*(grid if word == "GRID" else word for word in arguments), cwd=tmp_path)
    assert done.returncode == 2
    for sentence in sentences:
        assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_all_problems_of_a_grid_are_reported_together(grid: Path, tmp_path: Path) -> None:
    grid.write_text(GRID.replace("start_layer: 6", "start_layer: 25").replace("upper, start_layer: 5", "uper"))
    done = famba_sweep(grid, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "cases[0].start_layer: must be a layer from 1 to 24, not 25" in done.stderr
    assert "cases[1].strategy" in done.stderr
    assert "choose from none, all, interleaved, lower, upper" in done.stderr


def test_doctor_lists_devices_data_and_versions() -> None:
    done = famba_sweep("doctor")
    assert done.returncode == 0, done.stderr
    for topic in ("python", "torch", "ray", "optuna", "cpu", "gpu", "scan: torch", "digits", "cifar100"):
        assert any(line.startswith(topic) for line in done.stdout.splitlines())
