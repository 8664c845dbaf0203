"""A first grid for a folder of images: sizes that suit its images and this machine, as commented YAML."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from famba_core.paper.published import PAPER_PATCHES
from sweep.text import plural

if TYPE_CHECKING:
    from famba_core.data.folder_facts import FolderFacts

PROFILE = "mine"
LEAST_SIDE = 12  # pixels: 36 patches, so that each of 24 layers can remove one
MOST_SIDE = {"gpu": 224, "cpu": 64}  # pixels: of the paper, and for minutes a trial on a CPU
PATCHES = (16, 8, 4)  # pixels; the largest that leaves LEAST_ROWS of them
LEAST_ROWS = 7
TINY = 32  # pixels; smaller images lose what they show when they are cropped or mixed
SMALL_SET = 2000  # training images; a wider model learns them by heart
MOST_ON_CPU = 5000  # training images of a trial
STEPS = 16  # training steps in an epoch, at least
IMAGES_SEEN = {"gpu": 5_000_000, "cpu": 30_000}  # in a trial, over all epochs
EPOCHS = {"gpu": (30, 300), "cpu": (5, 50)}  # least and most
BUDGET = 168  # tokens of PAPER_PATCHES: about what each case of Famba-V's Table 1 removes
RATES = {"vim_tiny": "1e-3", "vim_micro": "3e-3", "vim_nano": "1e-2"}  # peak learning rate of AdamW

_OFF = """\
    crop_scale_min: 1 # no augmentation: {why}
    flip: false
    random_erasing: 0
    mixup: 0
    cutmix: 0
    eval_crop: 1
"""
_LIGHT = """\
    crop_scale_min: 0.6 # light augmentation: the paper's needs hundreds of epochs
    flip: true # false if left and right matter, as in text
    random_erasing: 0
    mixup: 0
    cutmix: 0
    eval_crop: 1
"""
_PAPER = """\
    crop_scale_min: 0.08 # the paper's augmentation, which is strong
    flip: true # false if left and right matter, as in text
    random_erasing: 0.25
    mixup: 0.8
    cutmix: 1.0
"""
_ON_GPU = """\
    gpus_per_trial: 1
"""
_ON_CPU = """\
    ema: false # averaged weights: evaluating them takes time
"""
_GRID = """\
# How much does token fusion save on these images, and in which layers? No fusion,
# beside the strategies of Famba-V's Table 1, which remove equally many tokens.
#
#     famba-sweep plan {file}     every trial and its price; trains nothing
#     famba-sweep {file} --yes    train what is missing, then write the report
#
# Written by `famba-sweep init`. Change what you like: docs/write-a-grid.md.

study: "{study}" # results go to results/{study}-{profile}/

baselines:
  - {{strategy: none}} # what time and memory are compared with

cases: # which of the 24 layers fuse; the budget says how many tokens
  - {{strategy: all}}
  - {{strategy: interleaved}} # layers 2, 4, ...
  - {{strategy: lower, stop_layer: 19}}
  - {{strategy: upper, start_layer: 6}}

# The paper's share: {budget} of {paper_patches} patches; here {tokens} of {patches}.
budget: {{reduced_tokens: {tokens}, rule: exact}}

seeds: [0, 1, 2] # one seed says little: on small sets they differ by points

profiles:
  {profile}:
    backbone: {backbone} # {why_backbone}
    dataset: imagefolder
    data_dir: {data_dir}
{subset}\
    image_size: {image_size} # pixels; {why_size}
    patch_size: {patch_size} # pixels: {patches} patches
    epochs: {epochs} # {why_epochs}
    batch_size: {batch_size} # {steps} in an epoch
    lr: {lr} # peak learning rate
    warmup_epochs: {warmup}
{augmentation}\
{device}"""


class _Choice(NamedTuple):
    """What is chosen for a folder."""

    image_size: int  # pixels
    patch_size: int  # pixels
    backbone: str
    train_images: int  # of a trial
    batch_size: int
    epochs: int

    @property
    def patches(self) -> int:
        """Return the number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def compose_grid(facts: FolderFacts, *, study: str, file: str, data_dir: str, gpu_gib: float | None) -> str:
    """Return the text of a grid file.

    Args:
        facts: of a folder that can be trained on.
        file: the grid's name in the commands that its head shows.
        data_dir: absolute path of the image folder.
        gpu_gib: memory of this machine's GPU; None chooses sizes for the CPU.
    """
    choice, gpu = _choose(facts, gpu_gib), gpu_gib is not None
    train = sum(facts.counts["train"].values())
    sides = sorted({min(size) for size in facts.sizes})
    why_size = f"the images' shorter side is {sides[0]}" + (f" to {sides[-1]}" if len(sides) > 1 else "")
    if choice.image_size + choice.patch_size <= _middle_side(facts):
        why_size += "; more takes longer"
    if choice.image_size > _middle_side(facts):
        why_size += "; enlarged for more patches"
    tiny = choice.image_size < TINY
    off = _OFF.format(why="the images are tiny" if tiny else "the images are grey")
    wide = "the paper's smaller model" if gpu else "narrow, for a CPU"
    subset = f"    train_images: {choice.train_images} # of {train}, the same number of each class\n"
    return _GRID.format(
        **choice._asdict(),
        file=file,
        study=study,
        profile=PROFILE,
        tokens=math.floor(BUDGET * choice.patches / PAPER_PATCHES + 0.5),
        budget=BUDGET,
        patches=choice.patches,
        paper_patches=PAPER_PATCHES,
        why_backbone="narrow, for few images" if train < SMALL_SET else wide,
        data_dir=json.dumps(data_dir, ensure_ascii=False),
        subset=subset if choice.train_images < train else "",
        why_size=why_size,
        why_epochs="the paper's 300 are for 50,000 images"
        if gpu
        else "try more of them first, then other values of lr",
        steps=plural(choice.train_images // choice.batch_size, "training step"),
        lr=RATES[choice.backbone],
        warmup=max(1, min(5, choice.epochs // 5)),
        augmentation=off if tiny or facts.grey else _PAPER if gpu else _LIGHT,
        device=_ON_GPU if gpu else _ON_CPU,
    )


def _choose(facts: FolderFacts, gpu_gib: float | None) -> _Choice:
    device = "cpu" if gpu_gib is None else "gpu"
    train, test = (sum(facts.counts[split].values()) for split in ("train", facts.test_split))
    chosen = min(train, MOST_ON_CPU) if device == "cpu" else train
    side = max(LEAST_SIDE, min(MOST_SIDE[device], _middle_side(facts), _largest_side(chosen + test, gpu_gib)))
    patch = next((size for size in PATCHES if side >= LEAST_ROWS * size), 2)
    batch = next((size for size in (128, 64, 32, 16) if chosen >= STEPS * size), min(8, chosen))
    fewest, longest = EPOCHS[device]
    wide, narrow = ("vim_tiny", "vim_micro") if device == "gpu" else ("vim_micro", "vim_nano")
    return _Choice(
        image_size=side // patch * patch,
        patch_size=patch,
        backbone=narrow if train < SMALL_SET else wide,
        train_images=chosen,
        batch_size=batch,
        epochs=max(fewest, min(longest, IMAGES_SEEN[device] // chosen)),
    )


def _middle_side(facts: FolderFacts) -> int:
    """Return the median of the images' shorter sides, in pixels: images are cut to squares of that side."""
    sides = sorted(min(size) for size in facts.sizes.elements())
    return sides[len(sides) // 2]


def _largest_side(images: int, gpu_gib: float | None) -> int:
    """Return the largest image_size at which all images fit in memory together, decoded; on a GPU in half of it."""
    from famba_core.data.imagefolder import MARGIN, MOST_GIB

    gib = MOST_GIB if gpu_gib is None else min(MOST_GIB, gpu_gib / 2)
    return int(int(math.sqrt(gib * 2**30 / (3 * images))) / MARGIN)
