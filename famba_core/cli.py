"""`famba-train`: one model on one data set, without Ray."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.errors import ConfigError, Problem, raise_problems, unwrap_optional
from famba_core.fusion.schedule import STRATEGIES, requested_schedule
from famba_core.version import VERSION

# The defaults are the paper's recipe for CIFAR-100 at 224 pixels; other data sets need other values.
DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 8,
        "patch_size": 1,
        "epochs": 12,
        "batch_size": 32,
        "lr": 5e-3,
        "warmup_epochs": 1,
        "flip": False,
        "crop_scale_min": 1.0,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "eval_crop": 1.0,
    },
}
CHOICES = {"strategy": STRATEGIES}
GROUPS = {
    "model": ModelConfig,
    "fusion": FusionConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "train": TrainConfig,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `famba-train` and return the exit code: 0, 1 for a failed run, 2 for wrong input, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        return _train(options)
    except ConfigError as error:
        for problem in error.problems:
            print(f"famba-train: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        advice = "the same command resumes the run" if options.checkpoint else "--checkpoint DIR would keep the state"
        print(f"\nfamba-train: stopped; {advice}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: every field of the configuration is an option."""
    result = argparse.ArgumentParser(
        prog="famba-train",
        description="Train one Vision Mamba, with or without token fusion, and print its accuracy, speed and memory.",
        epilog="The defaults are the paper's recipe. --dataset digits has defaults of its own for image size, epochs, "
        "learning rate and augmentation. Example: famba-train --dataset digits --backbone vim_nano --strategy upper "
        "--start-layer 6 --r 3",
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    for title, config in GROUPS.items():
        group = result.add_argument_group(title)
        hints = get_type_hints(config)
        for field in fields(config):
            if field.name != "num_classes":  # comes from the data set
                _add_option(group, field, hints[field.name])
        if config is FusionConfig:
            group.add_argument(
                "--schedule",
                default=argparse.SUPPRESS,
                type=_schedule,
                metavar="R,R,...",
                help="tokens removed in each layer; replaces --strategy, its layers and --r",
            )
    group = result.add_argument_group("run")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA if available)")
    group.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="implementation of the layers: cpu, triton, mamba_ssm, torch (default: the fastest that fits)",
    )
    group.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    group.add_argument(
        "--checkpoint", type=_folder, metavar="DIR", help="folder for the state of the run; the same command resumes it"
    )
    return result


def _add_option(group: Any, field: Field[Any], hint: Any) -> None:
    """Add the option of one field, without a default: a data set can have defaults of its own."""
    text = field.metadata["doc"] + ("" if field.default is None else f"; default: {field.default}")
    option: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    kind = unwrap_optional(hint)
    if choices := field.metadata.get("choices") or CHOICES.get(field.name) or get_args(kind):
        option["choices"] = choices
    elif kind is bool:
        option["action"] = argparse.BooleanOptionalAction
    else:
        option |= {"type": kind, "metavar": kind.__name__.upper()}
    group.add_argument(f"--{field.name.replace('_', '-')}", **option)


def _folder(text: str) -> Path:
    if not text:  # from an unset variable in a script; Path would take it as the current folder
        raise argparse.ArgumentTypeError("must be a folder, not an empty text")
    return Path(os.path.expanduser(text))  # for --checkpoint=~/run, which a shell leaves as it is


def _schedule(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(r) for r in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers such as 0,0,9,9, not {text!r}") from None


def _train(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from famba_core.data.datasets import describe_dataset
    from famba_core.training.trainer import NonFiniteLoss, Trainer

    given = vars(options)
    configs = _configs(DATASET_DEFAULTS.get(given.get("dataset", DataConfig.dataset), {}) | given)
    described = describe_dataset(configs["data"])
    for note in described.notes_for(configs["train"].batch_size):
        print(note)
    configs["model"] = replace(configs["model"], num_classes=described.num_classes)
    trainer = Trainer(
        **configs,
        threads=options.threads,
        device=options.device,
        backend=options.backend,
        checkpoint=options.checkpoint,
        progress=partial(tqdm, desc="training", unit="step", leave=False),
        evaluation_progress=partial(tqdm, desc="evaluating", unit="batch", leave=False),
    )
    fusion, effective = configs["fusion"], trainer.schedule
    requested = fusion.schedule if isinstance(fusion, FusionSchedule) else requested_schedule(fusion, len(effective))
    if requested != effective:
        print(f"clamped to what can fuse: layers 1 to {len(effective)} remove {', '.join(map(str, effective))} tokens")
    if trainer.history:
        print(f"resumed after epoch {len(trainer.history)} of {trainer.config.epochs}")
    try:
        for epoch in trainer:
            averaged = "" if epoch.top1_ema_pct is None else f"  averaged weights {epoch.top1_ema_pct:5.1f} %"
            print(
                f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.3f}  top-1 {epoch.top1_pct:5.1f} %  "
                f"top-5 {epoch.top5_pct:5.1f} %{averaged}  {epoch.train_time_s:.1f} s"
            )
    except NonFiniteLoss as error:
        print(f"famba-train: {error}; a lower --lr or float32 may help", file=sys.stderr)
        return 1
    result = trainer.result()
    best = max(trainer.history, key=lambda epoch: epoch.top1_pct)
    print(
        f"best top-1 {best.top1_pct:.1f} % (epoch {best.epoch}); {result.parameters:,} parameters; "
        f"{result.throughput_img_per_s:.1f} images/s in training; peak memory {result.peak_memory_mib:.0f} MiB "
        f"({result.peak_memory_source}); on {result.device_name}"
    )
    return 0


def _configs(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of each group. Raises one ConfigError with the problems of all groups."""
    configs: dict[str, Any] = {}
    problems: list[Problem] = []
    groups = GROUPS | {"fusion": FusionSchedule if "schedule" in values else FusionConfig}
    for group, config in groups.items():
        known = {field.name: values[field.name] for field in fields(config) if field.name in values}
        try:
            configs[group] = config(**known)
        except ConfigError as error:
            problems += error.problems
    raise_problems(problems)
    return configs


if __name__ == "__main__":
    sys.exit(main())
