"""The three tasks as blocks of diffusers' modular pipelines."""

from jog3r.pipelines.modular.blocks import (
    Jog3rModularBlocks,
    Jog3rModularBlocksT2V,
    Jog3rModularBlocksT2VC,
    Jog3rModularBlocksV2C,
)

__all__ = ["Jog3rModularBlocks", "Jog3rModularBlocksT2V", "Jog3rModularBlocksT2VC", "Jog3rModularBlocksV2C"]
