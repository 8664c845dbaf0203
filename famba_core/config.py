"""What a run is: frozen, keyword-only descriptions of the model, the fusion, the data and the training.

Importing this module imports nothing but the standard library, so a plan can be made without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from famba_core.backbones import BACKBONES, Backbone
from famba_core.errors import Checked, check_config, setting
from famba_core.errors import ConfigError as ConfigError

ClsPosition = Literal["head", "middle"]
Order = Literal["concat", "raster"]
Weighting = Literal["mean", "size"]
Precision = Literal["float32", "tf32", "bf16"]
DatasetName = Literal["digits", "cifar100", "imagefolder"]

MOST_PIXELS = 4096  # side of an image
LEAST_CROP = 0.1  # a smaller crop would be enlarged beyond memory
MOST = 1e30  # upper bound of rates: larger values overflow float32 within a few steps


class TokenGrid(NamedTuple):
    """The layers and tokens of a model that fusion can use."""

    layers: int
    tokens: int  # L at the first layer, class token included


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Vision Mamba classifier (Famba-V section 3.1; Vim)."""

    backbone: str = setting("vim_tiny", "name of the model's sizes", choices=BACKBONES)
    image_size: int = setting(224, "pixels, side of a square image", at_least=1, at_most=MOST_PIXELS)
    patch_size: int | None = setting(None, "pixels, side of a patch; None takes that of the backbone", at_least=1)
    num_classes: int = setting(100, "number of classes", at_least=1)
    cls_position: ClsPosition = setting("head", '"head" as in the paper, "middle" as in the official weights')

    def __post_init__(self) -> None:
        check_config(self)
        if self.image_size % self.patch:
            raise ConfigError.of("image_size", f"{self.image_size} pixels do not divide into patches of {self.patch}")

    @property
    def sizes(self) -> Backbone:
        """Return the sizes that the backbone's name stands for."""
        return BACKBONES[self.backbone]

    @property
    def patch(self) -> int:
        """Return the side of a patch in pixels."""
        return self.patch_size or self.sizes.patch_size

    @property
    def num_patches(self) -> int:
        """Return the number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def num_tokens(self) -> int:
        """Return L: the patches and the class token."""
        return self.num_patches + 1

    @property
    def token_grid(self) -> TokenGrid:
        """Return the number of layers, and of tokens at the first of them."""
        return TokenGrid(layers=self.sizes.depth, tokens=self.num_tokens)


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Checked):
    """Labels of a fusion: which layers fuse how many tokens, and how (Famba-V section 3.2). Layers count from 1.

    `famba_core.fusion.schedule.resolve` turns them into the schedule that runs.
    """

    strategy: str = setting("none", "which layers fuse, see famba_core/fusion/schedule.py")
    start_layer: int | None = setting(None, "first fusing layer, for strategies that take one")
    stop_layer: int | None = setting(None, "last fusing layer, for strategies that take one")
    r: int | None = setting(None, "tokens removed in each fusing layer", at_least=0)
    order: Order = setting("concat", '"concat" as in the published code, "raster" as in the image')
    weighting: Weighting = setting("mean", '"mean" as in the paper, "size" by the number of patches of a token')


@dataclass(frozen=True, kw_only=True)
class FusionSchedule:
    """A fusion as it runs: the tokens that each layer removes, and how they merge."""

    schedule: tuple[int, ...]  # tokens removed in each layer
    order: Order = FusionConfig.order
    weighting: Weighting = FusionConfig.weighting

    def __post_init__(self) -> None:
        if isinstance(self.schedule, list):
            object.__setattr__(self, "schedule", tuple(self.schedule))
        enough = all(r >= 0 for r in self.schedule if isinstance(r, int))
        check_config(self, ("schedule", enough, "no layer can remove fewer than 0 tokens"))


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """The data set that a model trains on."""

    dataset: DatasetName = setting("cifar100", "name of the data set")
    data_dir: str | None = setting(
        None, "contains cifar100/, or is the image folder; None searches FAMBA_DATA, then data/"
    )
    train_images: int | None = setting(
        None, "size of a class-balanced, seeded subset of the training set; None takes all", at_least=1
    )
    test_images: int | None = setting(
        None, "size of a class-balanced subset of the test set, the same for every seed; None takes all", at_least=1
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Augmentation of training images, and the crop that evaluation takes (Famba-V section 4; Vim's recipe)."""

    crop_scale_min: float = setting(
        0.08, "smallest area of a random resized crop, as a share of the image; 1 switches it off", above=0, at_most=1
    )
    flip: bool = setting(True, "mirror an image, left to right, with probability one half")
    random_erasing: float = setting(
        0.25, "probability that a rectangle of an image becomes noise", at_least=0, at_most=1
    )
    mixup: float = setting(0.8, "alpha of the Beta distribution; 0 switches it off", at_least=0, at_most=MOST)
    cutmix: float = setting(1.0, "alpha of the Beta distribution; 0 switches it off", at_least=0, at_most=MOST)
    eval_crop: float = setting(
        0.875,
        "share of the side that the evaluation's centre crop keeps (224 of 256)",
        at_least=LEAST_CROP,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """The paper's recipe (Famba-V section 4): AdamW, cosine schedule with warm-up, label smoothing, EMA."""

    epochs: int = setting(300, "passes over the training set", at_least=1)
    batch_size: int = setting(128, "images in a training step", at_least=1)
    lr: float = setting(1e-3, "peak learning rate", at_least=0, at_most=MOST)
    min_lr: float = setting(1e-5, "learning rate at the end of the cosine", at_least=0, at_most=MOST)
    warmup_epochs: int = setting(
        5, "epochs of linear warm-up, included in the run's epochs; a shorter run only warms up", at_least=0
    )
    warmup_lr: float = setting(1e-6, "learning rate at the first step of the warm-up", at_least=0, at_most=MOST)
    weight_decay: float = setting(0.1, "not on biases, 1-D tensors, pos_embed and cls_token", at_least=0, at_most=MOST)
    label_smoothing: float = setting(0.1, "share of a label spread over all classes", at_least=0, below=1)
    ema: bool = setting(True, "keep an exponential moving average of the weights and evaluate it too")
    ema_decay: float | None = setting(
        None, "decay of the average per step; None scales the paper's 0.99996 to the run's length", at_least=0, below=1
    )
    precision: Precision = setting("float32", "precision of matrix products")
    seed: int = setting(0, "seed of weights, order of images and augmentation", at_least=0)
    recompute: bool = setting(False, "keep only each layer's residual for backward: less memory, somewhat more time")
