"""`famba-train`: real short runs, and the messages for wrong input, a failed run and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from famba_core.cli import GROUPS, main, parser

TINY = ["--dataset", "digits", "--train-images", "40", "--backbone", "small", "--patch-size", "2", "--epochs", "2",
        "--batch-size", "20", "--threads", "1", "--device", "cpu"]  # fmt: skip


def test_run_prints_its_epochs_and_resumes_from_its_checkpoint(small_backbone, tmp_path, capsys):
    command = [*TINY, "--strategy", "upper", "--start-layer", "2", "--r", "2", "--checkpoint", str(tmp_path / "run")]
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[0].startswith("epoch 1/2  loss 2.")
    assert "top-1" in out[0]
    assert "averaged weights" in out[0]
    assert out[2].startswith("best top-1 ")
    assert "parameters" in out[2]
    assert "cpu_tensor_bytes" in out[2]

    assert main(command) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0] == "resumed after epoch 2 of 2"
    assert again[1].split(" images/s")[0] == out[2].split(" images/s")[0]

    assert main([*command, "--lr", "0.5"]) == 2
    assert "belongs to another run, with lr 0.005 (now 0.5); remove it" in capsys.readouterr().err
    assert main([*command, "--epochs", "3"]) == 2
    assert "belongs to another run, with epochs 2 (now 3); remove it" in capsys.readouterr().err


def test_evaluation_shows_its_progress(small_backbone, capsys):
    assert main([*TINY, "--epochs", "1", "--test-images", "300"]) == 0
    bars = capsys.readouterr().err
    assert "training:" in bars
    assert re.search(r"evaluating: .*/2 ", bars), "300 images are two batches"


def test_a_batch_larger_than_the_training_set_is_said(small_backbone, capsys):
    assert main([*TINY, "--epochs", "1", "--batch-size", "41"]) == 0
    said = capsys.readouterr().out
    assert "warning: batch_size 41 is more than the 40 training images: an epoch is one step, of 40 images\n" in said
    assert main([*TINY, "--epochs", "1", "--batch-size", "40"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_every_field_of_the_configuration_is_an_option():
    text = parser().format_help()
    for config in GROUPS.values():
        for field in fields(config):
            assert (f"--{field.name.replace('_', '-')}" in text) == (field.name != "num_classes"), field.name


def test_values_reach_the_configuration(monkeypatch, small_backbone):
    seen = {}

    def stop(**arguments: object) -> None:
        seen.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("famba_core.training.trainer.Trainer", stop)
    main([*TINY, "--schedule", "0,2,0,1", "--no-ema", "--flip", "--lr", "0.25", "--cls-position", "middle"])
    assert seen["fusion"].schedule == (0, 2, 0, 1)
    assert seen["train"].ema is False
    assert seen["train"].lr == 0.25
    assert seen["train"].warmup_epochs == 1, "the default for digits"
    assert seen["augment"].flip is True, "an option overrides the default for digits"
    assert seen["augment"].mixup == 0
    assert (seen["model"].num_classes, seen["model"].image_size, seen["model"].cls_position) == (10, 8, "middle")
    assert (seen["threads"], seen["device"], seen["checkpoint"]) == (1, "cpu", None)


@pytest.mark.parametrize(("options", "sentences"), [
    (["--epochs", "0", "--order", "raster", "--image-size", "9", "--mixup", "-1"],
     ["image_size: 9 pixels do not divide into patches of 2", "mixup: must be from 0 to 1e+30, not -1.0",
      "epochs: must be at least 1, not 0"]),
    (["--strategy", "upper", "--stop-layer", "3", "--r", "2"],
     ["start_layer: strategy 'upper' needs a layer from 1 to 4",
      "stop_layer: strategy 'upper' does not take stop_layer (got 3)"]),
    (["--train-images", "5000"],
     ["train_images: must be at most 1437, the size of the training set of digits, not 5000"]),
    (["--precision", "tf32"], ["precision: tf32 needs a CUDA device; choose float32 or bf16"]),
    (["--image-size", "5000", "--lr", "1e308", "--cutmix", "1e31", "--eval-crop", "1e-320"],
     ["image_size: must be from 1 to 4096, not 5000", "cutmix: must be from 0 to 1e+30, not 1e+31",
      "eval_crop: must be from 0.1 to 1, not 1e-320", "lr: must be from 0 to 1e+30, not 1e+308"]),
    (["--threads", "0"], ["threads: must be from 1 to 1024, not 0"]),
    (["--threads", "9999999999"], ["threads: must be from 1 to 1024, not 9999999999"]),
    (["--device", "tpu"], ["device: 'tpu' is not a device; choose from cpu, cuda, cuda:0, ..."]),
])  # fmt: skip
def test_wrong_values_are_one_sentence_each(options, sentences, small_backbone, capsys):
    assert main([*TINY, *options]) == 2
    assert capsys.readouterr().err.splitlines() == [f"famba-train: {sentence}" for sentence in sentences]


@pytest.mark.parametrize("options", [
    ["--backbone", "vim_huge"], ["--epochs", "many"], ["--schedule", "1,x"], ["--precision", "fp8"], ["--unknown", "1"],
    ["--checkpoint", ""],
])  # fmt: skip
def test_unknown_option_or_value_exits_with_2(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("famba-train: error: ")


def test_missing_data_set_is_one_sentence(tmp_path, capsys):
    assert main(["--dataset", "cifar100", "--data-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("famba-train: ")
    assert str(tmp_path) in error


def test_failed_run_exits_with_1(small_backbone, capsys):
    assert main([*TINY, "--lr", "1e30", "--warmup-lr", "1e30"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "famba-train: the training loss is" in error
    assert error.endswith("a lower --lr or float32 may help")


def test_ctrl_c_without_a_checkpoint_suggests_one(small_backbone, monkeypatch, capsys):
    def interrupt(trainer: object, epoch: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("famba_core.training.trainer.Trainer._epoch", interrupt)
    assert main(TINY) == 130
    assert capsys.readouterr().err.endswith("\nfamba-train: stopped; --checkpoint DIR would keep the state\n")


def test_ctrl_c_keeps_the_checkpoint(tmp_path):
    command = [sys.executable, "-m", "famba_core.cli", "--dataset", "digits", "--train-images", "64", "--backbone",
               "vim_nano", "--epochs", "500", "--threads", "1", "--device", "cpu",
               "--checkpoint", str(tmp_path / "run")]  # fmt: skip
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # background jobs of a shell ignore Ctrl-C, and so do their children; the tests may be one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("epoch 1/500")
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "famba-train: stopped; the same command resumes the run"
    assert (tmp_path / "run" / "last.pt").exists()


def test_help_does_not_import_torch(tmp_path: Path):
    # importing torch takes seconds; this stand-in fails if it is imported
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    found = subprocess.run(
        [sys.executable, "-m", "famba_core.cli", "--help"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "--start-layer" in found.stdout
