"""Vision Mamba (Vim) with token fusion across its layers (Famba-V section 3)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from famba_core.config import ConfigError, FusionSchedule, ModelConfig, Order
from famba_core.fusion.matching import Match, Merge, match, merge_tokens, shares
from famba_core.models.classifier import Classifier
from famba_core.models.vim.constants import NORM_EPS
from famba_core.models.vim.fused_block import BlockWeights, fused_block
from famba_core.models.vim.mixer import BiMambaMixer, bias_of
from famba_core.ops.kernels import Kernels
from famba_core.ops.registry import choose


class PatchEmbed(nn.Module):
    """Linear embedding of square patches."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] -> [B, patches, D], row by row."""
        patches: Tensor = self.proj(images)
        return patches.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """One layer: norm, merge of tokens, mixer, residual connection."""

    def __init__(self, width: int, state_size: int, num_layers: int, backend: str):
        super().__init__()
        self.backend = backend
        self.mixer = BiMambaMixer(width, state_size, num_layers)
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)

    def forward(self, residual: Tensor, merge: Merge | None, recompute: bool) -> Tensor:
        """Map residual [B, L, D] -> [B, L - r, D], both float32, by the fused block if the backend has its kernels."""
        backend, kernels = self._choose(residual)
        weights = self.weights()
        if any(weight.dtype is not residual.dtype for weight in weights):
            raise _wrong_dtypes(*weights)
        if kernels is not None:
            return fused_block(residual, merge, weights, kernels, recompute=recompute)
        if recompute and torch.is_grad_enabled():
            # the layer draws no random numbers, and a CUDA graph cannot save the state of the generator
            out: Tensor = checkpoint(
                self._composed, residual, merge, backend, use_reentrant=False, preserve_rng_state=False
            )
            return out
        return self._composed(residual, merge, backend)

    @torch.no_grad()
    def match(self, residual: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
        """Choose which of the normalised tokens fuse; see `famba_core.fusion.matching.match`."""
        _, kernels = self._choose(residual)
        if kernels is None:
            return match(self.norm(residual), r, class_index, order)
        hidden = kernels.rms_norm(residual.contiguous(), self.norm.weight.contiguous(), NORM_EPS, None, torch.float32)
        return kernels.match(hidden, r, class_index, order)

    def _choose(self, residual: Tensor) -> tuple[str, Kernels | None]:
        taps = self.mixer.conv1d.weight.shape[2]
        backend = choose(self.backend, residual, state_size=self.mixer.state_size, taps=taps)
        # the fused block's kernels take the residual and the parameters in float32, also under autocast
        is_float32 = residual.dtype == self.norm.weight.dtype == torch.float32
        return backend.name, backend.kernels if is_float32 else None

    def _composed(self, residual: Tensor, merge: Merge | None, backend: str) -> Tensor:
        hidden = self.norm(residual)
        if merge is not None:
            # fusion comes before the mixer, so that both directions scan the shorter sequence
            hidden, residual = merge_tokens(hidden, merge), merge_tokens(residual, merge)
        mixed: Tensor = self.mixer(hidden, backend)
        return residual + mixed

    def weights(self) -> BlockWeights:
        """Return the parameters in the order of the fused block."""
        m = self.mixer
        return BlockWeights(
            self.norm.weight.contiguous(), m.in_proj.weight, m.conv1d.weight, m.conv1d_b.weight, bias_of(m.conv1d),
            bias_of(m.conv1d_b), m.x_proj.weight, m.x_proj_b.weight, m.dt_proj.weight, m.dt_proj_b.weight,
            m.dt_proj.bias, m.dt_proj_b.bias, m.A_log, m.A_b_log, m.D, m.D_b, m.out_proj.weight,
        )  # fmt: skip


class Vim(Classifier):
    """A Vision Mamba classifier whose layers remove `fusion.schedule` tokens. Parameters have the official names."""

    def __init__(self, config: ModelConfig, fusion: FusionSchedule, backend: str = "auto"):
        super().__init__()
        sizes = config.sizes
        self.config, self.fusion = config, fusion
        self.class_position = config.num_patches // 2 if config.cls_position == "middle" else 0
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, sizes.width))
        self.patch_embed = PatchEmbed(config.patch, sizes.width)
        self.layers = nn.ModuleList(
            Block(sizes.width, sizes.state_size, sizes.depth, backend) for _ in range(sizes.depth)
        )
        self.norm_f = nn.RMSNorm(sizes.width, eps=NORM_EPS)
        self.head = nn.Linear(sizes.width, config.num_classes)
        self.register_state_dict_post_hook(_note_class_position)
        self.reset_parameters()

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Vim does, except the mixers, which initialise themselves."""
        for parameter in (self.cls_token, self.pos_embed, self.head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.bias)
        patches = self.patch_embed.proj
        fan_in = patches.weight[0].numel()
        # lecun_normal: a normal truncated at two standard deviations, rescaled to the variance 1 / fan_in
        nn.init.trunc_normal_(patches.weight, std=1.0)
        patches.weight /= 0.87962566103423978 * math.sqrt(fan_in)
        assert patches.bias is not None
        nn.init.zeros_(patches.bias)
        for block in self.blocks:
            nn.init.kaiming_uniform_(block.mixer.in_proj.weight, a=math.sqrt(5))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W]. Returns logits [B, num_classes].

        Raises ConfigError for images that do not fit, and for weights that are neither all float32 nor all float64.
        """
        self._check(images)
        tokens = self.patch_embed(images)
        batch = tokens.shape[0]
        at = self.class_position
        tokens = torch.cat((tokens[:, :at], self.cls_token.expand(batch, -1, -1), tokens[:, at:]), dim=1)
        residual = (tokens + self.pos_embed).to(self.pos_embed.dtype)  # not that of autocast
        class_index = torch.full((batch,), at, device=images.device)
        sizes = residual.new_ones(residual.shape[:2])

        for block, r in zip(self.blocks, self.fusion.schedule, strict=True):
            merge = None
            if r > 0:
                matched = block.match(residual, r, class_index, self.fusion.order)
                merge, sizes = shares(matched, sizes, self.fusion.weighting)
                class_index = matched.class_index
            residual = block(residual, merge, self.recompute)

        rows = torch.arange(batch, device=images.device)
        # the norm acts on each token alone, so only the class token needs it
        logits: Tensor = self.head(self.norm_f(residual[rows, class_index]))
        return logits

    def _check(self, images: Tensor) -> None:
        outer = self.patch_embed.proj.weight, self.cls_token, self.pos_embed, self.norm_f.weight, self.head.weight
        dtype, device, size = self.pos_embed.dtype, self.pos_embed.device, self.config.image_size
        if dtype not in (torch.float32, torch.float64) or any(weight.dtype is not dtype for weight in outer):
            raise _wrong_dtypes(*outer)
        if images.shape[1:] != (3, size, size) or images.ndim != 4:
            raise ConfigError.of("images", f"must be [B, 3, {size}, {size}], not {list(images.shape)}")
        if images.device != device:
            raise ConfigError.of("images", f"must be on {device}, where the model is, not on {images.device}")
        may_cast = dtype is torch.float32 and torch.amp.is_autocast_available(device.type)
        is_cast = may_cast and torch.is_autocast_enabled(device.type)
        if images.dtype not in ((dtype, torch.bfloat16, torch.float16) if is_cast else (dtype,)):
            raise ConfigError.of("images", f"must be {dtype}, as the weights are, not {images.dtype}")


def _wrong_dtypes(*weights: Tensor) -> ConfigError:
    found = " and ".join(sorted({str(weight.dtype) for weight in weights}))
    advice = "call model.float(), and compute under torch.autocast for bfloat16"
    return ConfigError.of("weights", f"must all be torch.float32, or all torch.float64, not {found}; {advice}")


def _note_class_position(model: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Note in a state dict's metadata, which files keep, where the class token's position embedding is."""
    metadata["cls_position"] = cast(Vim, model).config.cls_position
