"""famba_core imports neither the libraries of sweeps nor, for plans, torch: checked in interpreters without them."""

import subprocess
import sys

import pytest

import famba_core

TRAIN_ONE_STEP = """
from famba_core import *
from famba_core.backbones import Backbone, register_backbone
from famba_core.training.trainer import Trainer

register_backbone("small", Backbone(width=16, depth=4, state_size=4, patch_size=2))
trainer = Trainer(
    model=ModelConfig(backbone="small", image_size=8, num_classes=10), fusion=FusionConfig(strategy="all", r=1),
    data=DataConfig(dataset="digits", train_images=10), augment=AugmentConfig(eval_crop=1.0),
    train=TrainConfig(epochs=1, warmup_epochs=0), threads=1, device="cpu",
)
(epoch,) = trainer
print(trainer.steps_per_epoch, epoch.loss > 0)
"""


def run(program: str, blocked: set[str]) -> str:
    # None in sys.modules is Python's own way to say that a module cannot be imported
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_needs_no_library_of_sweeps():
    blocked = {"sweep", "ray", "optuna", "pandas", "pydantic", "matplotlib", "rich", "yaml", "jinja2"}
    assert run(TRAIN_ONE_STEP, blocked) == "1 True\n"


@pytest.mark.parametrize("module", [
    "famba_core", "famba_core.config", "famba_core.models.registry",
    "famba_core.fusion.schedule", "famba_core.cost.work", "famba_core.cli", "famba_core.training.metrics",
])  # fmt: skip
def test_modules_of_a_plan_need_neither_torch_nor_numpy(module):
    run(f"import {module}", {"torch", "numpy"})


def test_blocked_module_cannot_be_imported():
    with pytest.raises(AssertionError, match="import of torch halted"):
        run("import famba_core.training.trainer", {"torch"})


def test_the_package_offers_its_public_names_only():
    assert callable(famba_core.build_model)
    assert callable(famba_core.load_checkpoint)
    assert dir(famba_core) == sorted(famba_core.__all__)
    with pytest.raises(AttributeError, match="module 'famba_core' has no attribute 'build'"):
        famba_core.build  # noqa: B018
