"""DUSt3R as a diffusers model (arXiv 2312.14132): the image-encoder baseline that JOG3R is compared with.

Images go through a vision transformer one by one; the coupled decoders and the linear head are `Pointmap3DHead`, so that
registration and metrics are the same as JOG3R's. Written from the papers (CroCo v2: 2211.10408).

Letters: B clips, F frames, P pairs, N tokens a frame, D encoder width, H W pixels.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from jog3r.models.layers import SelfAttentionBlock, rotary_2d
from jog3r.models.pointmap_head import Pointmap3DHead, Pointmap3DHeadOutput
from jog3r.models.saving import ModelSavingMixin


class Dust3rBaseline(ModelSavingMixin, ModelMixin, ConfigMixin, AttentionMixin):
    """DUSt3R with a linear head: images of a clip -> pointmaps of pairs. The defaults are the published 512-pixel model.

    Args:
        width, num_layers, num_attention_heads: of the image encoder.
        decoder_width, decoder_num_layers, decoder_num_attention_heads: of each decoder.
        patch_size: side of a token in pixels.
        mlp_ratio: width of the MLPs' hidden layers over their models'.
        rotary_base: longest wavelength of the rotary positions.
        norm_eps: of the layer norms.
        weights_license: of weights that came from elsewhere, as the hub calls it; the card states it.
    """

    about = "DUSt3R, the image-encoder baseline that JOG3R is compared with: from images to pointmaps of pairs."
    _supports_gradient_checkpointing = True
    _no_split_modules = ["SelfAttentionBlock", "PairwiseDecoderBlock"]
    _repeated_blocks = ["SelfAttentionBlock", "PairwiseDecoderBlock"]
    _skip_layerwise_casting_patterns = Pointmap3DHead._skip_layerwise_casting_patterns  # diffusers asks the outer model alone
    _keep_in_fp32_modules = Pointmap3DHead._keep_in_fp32_modules

    @register_to_config
    def __init__(
        self,
        width: int = 1024,
        num_layers: int = 24,
        num_attention_heads: int = 16,
        decoder_width: int = 768,
        decoder_num_layers: int = 12,
        decoder_num_attention_heads: int = 12,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        rotary_base: float = 100.0,
        norm_eps: float = 1e-6,
        weights_license: str | None = None,  # noqa: ARG002  # in the config alone
    ):
        super().__init__()
        # 1. image encoder
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.encoder_blocks = nn.ModuleList(
            [SelfAttentionBlock(width, num_attention_heads, mlp_ratio, norm_eps) for _ in range(num_layers)]
        )
        self.encoder_norm = nn.LayerNorm(width, eps=norm_eps)
        # 2. decoders and head
        self.head = Pointmap3DHead(
            feature_dim=width,
            hidden_dim=decoder_width,
            num_layers=decoder_num_layers,
            num_attention_heads=decoder_num_attention_heads,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            rotary_base=rotary_base,
            norm_eps=norm_eps,
            feature_norm=False,
        )
        self.gradient_checkpointing = False

    @classmethod
    def from_single_file(cls, path: str, **config: Any) -> "Dust3rBaseline":
        """Read a DUSt3R checkpoint whole; see `jog3r.models.conversion.convert.inspect_dust3r_baseline`."""
        from jog3r.models.conversion.convert import inspect_dust3r_baseline

        model: Any = inspect_dust3r_baseline(cls, path, **config).load()
        return model

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, F, 3, H, W) in [-1, 1] -> features (B, F, N, D), each frame by itself; see `forward` for the errors."""
        size = self.config.patch_size
        if images.ndim != 5 or images.shape[2] != 3 or images.shape[3] % size or images.shape[4] % size:
            raise ValueError(f"images must be (B, F, 3, H, W) with H and W multiples of {size}, got {tuple(images.shape)}")
        batch_size, _, _, height, width = images.shape
        head_dim = self.config.width // self.config.num_attention_heads
        rotary = rotary_2d(height // size, width // size, head_dim, self.config.rotary_base, images.device)
        tokens = self.patch_embed(images.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B*F, N, D)
        for block in self.encoder_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, rotary)
            else:
                tokens = block(tokens, rotary)
        return self.encoder_norm(tokens).unflatten(0, (batch_size, -1))  # (B, F, N, D)

    def forward(
        self,
        images: torch.Tensor,  # (B, F, 3, H, W)
        pairs: torch.Tensor | None = None,  # (P, 2)
        return_dict: bool = True,
    ) -> Pointmap3DHeadOutput | tuple:
        """Predict the pointmaps of all pairs.

        Args:
            images (B, F, 3, H, W): in [-1, 1]; H and W multiples of `patch_size`.
            pairs (P, 2): frame numbers (anchor, other); None = (0, f) for f = 1..F-1.
            return_dict: False gives a tuple in the order of `Pointmap3DHeadOutput`.

        Raises:
            ValueError: for images or pairs of another shape.
        """
        height, width = images.shape[-2:]
        return self.head(self.encode_images(images), height, width, pairs=pairs, return_dict=return_dict)
