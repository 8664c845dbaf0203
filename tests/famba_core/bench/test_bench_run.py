"""`famba-bench` from the command line, with a model that takes milliseconds."""

import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from backends import changed_backend

from famba_core import ConfigError, ModelConfig
from famba_core.bench import cli, run, sections, session, settings, timing
from famba_core.bench.machine import device_limits
from famba_core.bench.settings import SECTIONS, FusionCase, Settings
from famba_core.config import FusionConfig
from famba_core.cost.roofline import Limits
from famba_core.ops import registry

LIMITS = Limits(
    matmul_flops_per_s=1e12, vector_ops_per_s=1e12, exps_per_s=1e12, bytes_per_s=1e12, start_s=1e-6, source="made"
)
UPPER = FusionConfig(strategy="upper", start_layer=3, r=2)


@pytest.fixture
def small(small_backbone, monkeypatch):
    """A model of 17 tokens and 4 layers, two fusion cases, fewer sizes, and limits that need no measurement."""
    monkeypatch.setattr(session, "model_config", lambda name: ModelConfig(backbone=name, image_size=8, num_classes=100))
    monkeypatch.setattr(session, "device_limits", lambda device, precision: LIMITS)
    monkeypatch.setattr(
        sections,
        "fusion_cases",
        lambda model: [FusionCase(name="none", fusion=FusionConfig()), FusionCase(name="upper", fusion=UPPER)],
    )
    monkeypatch.setattr("famba_core.bench.sections.GROWTH_SIDES", (4, 5, 6, 8))
    monkeypatch.setattr("famba_core.bench.sections.GROWTH_DEPTHS", (1, 2, 3, 4))
    return small_backbone


def bench(backbone, *options):
    return cli.main(["--backbone", backbone, "--quick", "--device", "cpu", "--threads", "1", *options])


def read(folder):
    return pq.read_table(folder / "bench.parquet").to_pylist()


def test_all_sections_are_measured_shown_and_written(small, tmp_path, capfd):
    assert bench(small, "--out", str(tmp_path / "new")) == 0
    rows = read(tmp_path / "new")
    measured = [row for row in rows if row["status"] == "measured"]
    sections = {row["section"] for row in measured}
    assert sections == {"scan", "mixer", "model", "step", "growth-tokens", "growth-batch", "growth-depth"}
    for row in measured:
        assert 0 < row["q25_ms"] <= row["median_ms"] <= row["q75_ms"]
        assert row["n"] >= 2
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["median_ms"])
        assert "torch " in row["versions"]
        assert row["threads"] == 1
        assert row["device"]
    assert {row["backend"] for row in measured if row["section"] == "scan"} >= {"auto", "torch"}
    assert {row["tokens"] for row in measured if row["section"] == "growth-tokens"} == {17, 26}
    assert {row["layers"] for row in measured if row["section"] == "growth-depth"} == {1, 2}
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / "bench.svg").read_text().startswith("<?xml")
    out, err = capfd.readouterr()
    for title in ("Selective scan", "One layer", "Whole model", "Training step", "Growth by depth", "device's limits"):
        assert title in out
    assert "warming up" in err


def test_step_rows_contain_the_savings_of_fusion(small, tmp_path):
    assert bench(small, "--sections", "step", "--out", str(tmp_path)) == 0
    rows = {row["name"]: row for row in read(tmp_path) if not row["peer"]}
    none, upper = rows["none"], rows["upper"]
    assert (none["ratio_to"], none["time_ratio"], none["memory_ratio"], none["token_ratio"]) == ("none", 1, 1, 1)
    assert upper["token_ratio"] == pytest.approx((17 + 17 + 15 + 13) / (4 * 17))
    assert upper["schedule"] == [0, 0, 2, 2]
    assert upper["reduced_tokens"] == 4
    assert upper["time_ratio"] == pytest.approx(none["images_per_s"] / upper["images_per_s"])
    assert upper["memory_ratio"] == pytest.approx(upper["peak_mib"] / none["peak_mib"])
    assert upper["saved_ratio"] < 0.95
    assert upper["saved_bytes_per_token"] == pytest.approx(upper["saved_bytes_per_image"] / (17 + 17 + 15 + 13))
    assert 0 < upper["predicted_memory_ratio"] < 1
    assert rows["none, recompute"]["saved_bytes_per_image"] < none["saved_bytes_per_image"]
    assert rows["none, recompute"]["recompute"]
    expected = none["limit_matmul_ms"] + none["limit_vector_ms"] + none["limit_memory_ms"]
    assert none["limit_serial_pct"] == pytest.approx(100 * expected / none["median_ms"])


def test_roofline_measures_only_missing_rows(small, tmp_path):
    assert bench(small, "--sections", "mixer", "roofline", "--out", str(tmp_path)) == 0
    assert [row["name"] for row in read(tmp_path) if row["section"] == "roofline"] == ["model", "none"]


def test_precisions_are_measured_in_one_group(small, tmp_path):
    assert bench(small, "--sections", "model", "--precision", "float32", "bf16", "--out", str(tmp_path)) == 0
    found = {(row["backend"], row["precision"]) for row in read(tmp_path) if row["status"] == "measured"}
    assert found >= {("auto", "float32"), ("auto", "bf16"), ("torch", "float32"), ("torch", "bf16")}
    assert len({row["ratio_to"] for row in read(tmp_path) if row["status"] == "measured"}) == 1


def test_failing_backend_is_reported_and_the_others_go_on(small, tmp_path, capfd):
    def broken(*tensors, **options):
        raise RuntimeError("kernel panic")

    with changed_backend("torch", selective_scan=broken):
        assert bench(small, "--sections", "scan", "--out", str(tmp_path)) == 0
    by_backend = {row["backend"]: row for row in read(tmp_path)}
    assert by_backend["torch"]["status"] == "failed"
    assert by_backend["torch"]["note"] == "RuntimeError: kernel panic"
    assert by_backend["torch"]["median_ms"] is None
    assert "failed: torch (torch, float32): RuntimeError: kernel panic" in capfd.readouterr().out


def test_peer_that_is_not_installed_is_skipped_with_the_reason(small, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("famba_core.bench.machine.importlib.util.find_spec", lambda name: None)
    assert bench(small, "--sections", "model", "--out", str(tmp_path)) == 0
    peers = [row for row in read(tmp_path) if row["peer"]]
    assert [(row["backend"], row["status"], row["note"]) for row in peers] == [
        ("mambapy", "skipped", "mambapy is not installed"),
        ("mamba_ssm", "skipped", "mamba_ssm is not installed"),
    ]
    assert "not available: mambapy: mambapy is not installed" in capfd.readouterr().out


def test_peer_with_large_memory_gets_fewer_images_and_auto_is_measured_with_both(small, tmp_path, monkeypatch):
    def fits(self, load, layers):
        return not load.is_peer or load.batch <= 2

    monkeypatch.setattr(session.Session, "fits", fits)
    monkeypatch.setattr("famba_core.bench.machine._unsupported_reason", lambda backend, device, sizes: None)
    assert bench(small, "--sections", "model", "--batch", "8", "--out", str(tmp_path)) == 0
    batches = [(row["backend"], row["batch"]) for row in read(tmp_path)]
    assert {("mambapy", 2), ("auto", 2), ("auto", 8), ("torch", 8)} <= set(batches)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_show_and_write_the_results_so_far(number, small, tmp_path, capfd, monkeypatch):
    real, turns = timing._turn, []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(*arguments):
        turns.append(None)
        if len(turns) > 1:
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(timing, "_turn", interrupted)
    assert bench(small, "--sections", "scan", "mixer", "--out", str(tmp_path)) == 130
    measured = [row for row in read(tmp_path) if row["status"] == "measured"]
    assert [(row["section"], row["backend"], row["n"]) for row in measured] == [("scan", "auto", 1)]
    out, err = capfd.readouterr()
    assert "Selective scan" in out
    assert "stopped" in err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch", "0"], "batch: must be at least 1, not 0"),
        (["--threads", "0"], "threads: must be at least 1, not 0"),
        (["--device", "tpu"], "device: 'tpu' is not a device"),
        (["--device", "cpu", "--precision", "tf32"], "precision: tf32 needs a CUDA device"),
        (["--out", "/dev/null/x"], "out: /dev/null/x cannot be a folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(options, sentence, capfd):
    assert cli.main(options) == 2
    assert capfd.readouterr().err.startswith(f"famba-bench: {sentence}")


def test_settings_name_the_choices():
    with pytest.raises(
        ConfigError, match=f"'x' is not a backbone.*'nope' is not a section; choose from {next(iter(SECTIONS))}"
    ):
        Settings(backbone="x", sections=("nope",))
    with pytest.raises(ConfigError, match="'fp8' is not a precision"):
        Settings(precision=("float32", "fp8"))


def test_measured_limits_are_plausible(monkeypatch):
    for name, sizes in (("MATMUL_SIZES", {"cpu": 64}), ("COPY_BYTES", {"cpu": 1 << 12})):
        monkeypatch.setattr(f"famba_core.bench.machine.{name}", sizes)
    limits = device_limits(torch.device("cpu"), "bf16")
    assert limits.source == "measured"
    assert min(limits.matmul_flops_per_s, limits.bytes_per_s) > 0
    assert limits.exps_per_s == pytest.approx(limits.vector_ops_per_s / 10)


def test_help_needs_no_torch_and_a_run_no_library_of_sweeps():
    program = "import sys; sys.modules.update(dict.fromkeys({})); from famba_core.bench.cli import main; main({})"
    for blocked, arguments in (
        ({"torch", "numpy"}, ["-h"]),
        (
            {"sweep", "ray", "pandas", "pydantic", "matplotlib", "rich", "yaml", "mambapy"},
            ["--quick", "--backbone", "vim_nano", "--sections", "scan", "--batch", "1", "--threads", "1"],
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program.format(blocked, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "scan" in done.stdout.lower()


def test_run_leaves_mambapy_unregistered(small):
    assert bench(small, "--sections", "scan") == 0
    assert "mambapy" not in registry.backend_names()
    assert run.RUNNERS.keys() == SECTIONS.keys()
    assert settings.NUM_CLASSES == 100
