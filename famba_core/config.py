"""What a run is: frozen, keyword-only descriptions of the model, the fusion, the data and the training.

Importing this module imports nothing but the standard library, so a plan can be made without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from famba_core.errors import ConfigError as ConfigError
from famba_core.errors import check_types, reject

ClsPosition = Literal["head", "middle"]
Order = Literal["concat", "raster"]
Weighting = Literal["mean", "size"]
Precision = Literal["float32", "tf32", "bf16"]
DatasetName = Literal["digits", "cifar100", "imagefolder"]


MOST_PIXELS = 4096  # side of an image
LEAST_CROP = 0.1  # below, an image is enlarged beyond memory to be cropped
MOST = 1e30  # of rates and the like; as float32 a few steps make infinity of more


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Sizes of a Vision Mamba. `stands_for` names the published backbone that a narrow one replaces."""

    width: int  # D, channels of the residual stream
    depth: int  # number of layers
    state_size: int  # N, states per inner channel
    patch_size: int  # pixels, side of a square patch
    stands_for: str | None = None


BACKBONES = {
    "vim_tiny": Backbone(width=192, depth=24, state_size=16, patch_size=16),
    "vim_small": Backbone(width=384, depth=24, state_size=16, patch_size=16),
    "vim_base": Backbone(width=768, depth=24, state_size=16, patch_size=16),
    # Same depth as the published models, so that every case of the paper's tables can run on small images.
    "vim_nano": Backbone(width=16, depth=24, state_size=4, patch_size=4, stands_for="vim_tiny"),
    "vim_nano_small": Backbone(width=32, depth=24, state_size=4, patch_size=4, stands_for="vim_small"),
    "vim_micro": Backbone(width=32, depth=24, state_size=4, patch_size=4, stands_for="vim_tiny"),
    "vim_micro_small": Backbone(width=64, depth=24, state_size=4, patch_size=4, stands_for="vim_small"),
}


class TokenGrid(NamedTuple):
    """What a model offers to fusion."""

    layers: int
    tokens: int  # L at the first layer, class token included


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Vision Mamba classifier (Famba-V section 3.1; Vim)."""

    backbone: str = "vim_tiny"  # the name of its sizes in BACKBONES
    image_size: int = 224  # pixels, side of a square image
    patch_size: int | None = None  # pixels; None takes the backbone's
    num_classes: int = 100
    cls_position: ClsPosition = "head"  # "head" is the paper's, "middle" that of the official weights

    def __post_init__(self) -> None:
        check_types(self)
        reject(
            (
                "backbone",
                self.backbone not in BACKBONES,
                f"{self.backbone!r} is not a backbone; choose from {', '.join(BACKBONES)}",
            ),
            (
                "image_size",
                not 1 <= self.image_size <= MOST_PIXELS,
                f"must be from 1 to {MOST_PIXELS}, not {self.image_size}",
            ),
            (
                "patch_size",
                self.patch_size is not None and self.patch_size < 1,
                f"must be at least 1, not {self.patch_size}",
            ),
            ("num_classes", self.num_classes < 1, f"must be at least 1, not {self.num_classes}"),
            (
                "cls_position",
                self.cls_position not in ("head", "middle"),
                f"{self.cls_position!r} is not a place; choose from head, middle",
            ),
        )
        reject(
            (
                "image_size",
                self.image_size % self.patch != 0,
                f"{self.image_size} pixels do not divide into patches of {self.patch}",
            )
        )

    @property
    def sizes(self) -> Backbone:
        return BACKBONES[self.backbone]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.patch_size or self.sizes.patch_size

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    @property
    def num_tokens(self) -> int:
        """L: the patches and the class token."""
        return self.num_patches + 1

    @property
    def token_grid(self) -> TokenGrid:
        """Layers, and tokens at the first of them."""
        return TokenGrid(layers=self.sizes.depth, tokens=self.num_tokens)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Labels of a fusion: which layers fuse how many tokens, and how (Famba-V section 3.2). Layers count from 1.

    `famba_core.fusion.schedule.resolve` makes what runs of them.
    """

    strategy: str = "none"  # which layers fuse, see famba_core/fusion/schedule.py
    start_layer: int | None = None  # first fusing layer, where the strategy takes one
    stop_layer: int | None = None  # last fusing layer, where the strategy takes one
    r: int | None = None  # tokens removed in each fusing layer
    order: Order = "concat"  # "concat" is the published code's, "raster" keeps the image's order
    weighting: Weighting = "mean"  # "mean" is the paper's, "size" weighs a token by its patches

    def __post_init__(self) -> None:
        check_types(self)
        reject(("r", self.r is not None and self.r < 0, f"must be at least 0, not {self.r}"), *_merge_rules(self))


@dataclass(frozen=True, kw_only=True)
class FusionSchedule:
    """A fusion as it runs: the tokens that each layer removes, and how they merge."""

    schedule: tuple[int, ...]  # tokens removed in each layer
    order: Order = "concat"
    weighting: Weighting = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, list):
            object.__setattr__(self, "schedule", tuple(self.schedule))
        check_types(self)
        reject(
            ("schedule", any(r < 0 for r in self.schedule), "no layer can remove fewer than 0 tokens"),
            *_merge_rules(self),
        )


def _merge_rules(fusion: FusionConfig | FusionSchedule) -> tuple[tuple[str, bool, str], ...]:
    order, weighting = fusion.order, fusion.weighting
    return (
        ("order", order not in ("concat", "raster"), f"{order!r} is not an order; choose from concat, raster"),
        ("weighting", weighting not in ("mean", "size"), f"{weighting!r} is not a weighting; choose from mean, size"),
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from."""

    dataset: DatasetName = "cifar100"
    data_dir: str | None = None  # holds cifar100/, or is the image folder; None looks in FAMBA_DATA, then data/
    train_images: int | None = None  # size of a class-balanced, seeded part of the training set; None takes all

    def __post_init__(self) -> None:
        check_types(self)
        reject(
            (
                "dataset",
                self.dataset not in ("digits", "cifar100", "imagefolder"),
                f"{self.dataset!r} is not a data set; choose from digits, cifar100, imagefolder",
            ),
            (
                "train_images",
                self.train_images is not None and self.train_images < 1,
                f"must be at least 1, not {self.train_images}",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images, and the crop that evaluation takes (Famba-V section 4; Vim's recipe)."""

    crop_scale_min: float = 0.08  # smallest area of a random resized crop, as a share of the image; 1 switches it off
    flip: bool = True  # mirror an image, left to right, with probability one half
    random_erasing: float = 0.25  # probability that a rectangle of an image becomes noise
    mixup: float = 0.8  # alpha of the Beta distribution; 0 switches it off
    cutmix: float = 1.0  # alpha of the Beta distribution; 0 switches it off
    eval_crop: float = 0.875  # share of the side that the evaluation's centre crop keeps (224 of 256)

    def __post_init__(self) -> None:
        check_types(self)
        reject(
            (
                "crop_scale_min",
                not 0 < self.crop_scale_min <= 1,
                f"must be above 0 and at most 1, not {self.crop_scale_min}",
            ),
            ("random_erasing", not 0 <= self.random_erasing <= 1, f"must be from 0 to 1, not {self.random_erasing}"),
            ("mixup", self.mixup < 0, f"must be at least 0, not {self.mixup}"),
            ("mixup", self.mixup > MOST, f"must be at most {MOST:g}, not {self.mixup}"),
            ("cutmix", self.cutmix < 0, f"must be at least 0, not {self.cutmix}"),
            ("cutmix", self.cutmix > MOST, f"must be at most {MOST:g}, not {self.cutmix}"),
            (
                "eval_crop",
                not LEAST_CROP <= self.eval_crop <= 1,
                f"must be from {LEAST_CROP} to 1, not {self.eval_crop}",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The paper's recipe (Famba-V section 4): AdamW, cosine schedule with warm-up, label smoothing, EMA."""

    epochs: int = 300
    batch_size: int = 128
    lr: float = 1e-3  # peak learning rate
    min_lr: float = 1e-5  # learning rate at the end of the cosine
    warmup_epochs: int = 5  # epochs of linear warm-up, part of `epochs`; a shorter run warms up all along
    warmup_lr: float = 1e-6  # learning rate at the first step of the warm-up
    weight_decay: float = 0.1  # none on biases, 1-D tensors, pos_embed and cls_token
    label_smoothing: float = 0.1
    ema: bool = True  # keep an exponential moving average of the weights and evaluate it too
    ema_decay: float | None = None  # per step; None scales the paper's 0.99996 to the run's length
    precision: Precision = "float32"
    seed: int = 0
    recompute: bool = False  # keep only each layer's residual for backward: less memory, somewhat more time

    def __post_init__(self) -> None:
        check_types(self)
        at_least_0 = ("lr", "min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "seed")
        rates = ("lr", "min_lr", "warmup_lr", "weight_decay")
        reject(
            ("epochs", self.epochs < 1, f"must be at least 1, not {self.epochs}"),
            ("batch_size", self.batch_size < 1, f"must be at least 1, not {self.batch_size}"),
            (
                "label_smoothing",
                not 0 <= self.label_smoothing < 1,
                f"must be at least 0 and below 1, not {self.label_smoothing}",
            ),
            (
                "ema_decay",
                self.ema_decay is not None and not 0 <= self.ema_decay < 1,
                f"must be at least 0 and below 1, not {self.ema_decay}",
            ),
            (
                "precision",
                self.precision not in ("float32", "tf32", "bf16"),
                f"{self.precision!r} is not a precision; choose from float32, tf32, bf16",
            ),
            *((name, getattr(self, name) < 0, f"must be at least 0, not {getattr(self, name)}") for name in at_least_0),
            *(
                (name, getattr(self, name) > MOST, f"must be at most {MOST:g}, not {getattr(self, name)}")
                for name in rates
            ),
        )
