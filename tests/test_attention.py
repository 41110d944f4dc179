"""Attention through diffusers' dispatcher: every backend that runs here gives the same numbers."""

import pytest
import torch

from jog3r.models.layers import Attention


@pytest.mark.parametrize("context_length", [6, 12])  # 6 queries, 6 keys: rows and columns of a mask look alike
def test_backends_agree_on_padded_captions(context_length):
    torch.manual_seed(0)
    batch_size = 6
    layer = Attention(16, 2, context_dim=8)
    hidden_states, context = torch.randn(batch_size, 6, 16), torch.randn(batch_size, context_length, 8)
    mask = torch.arange(context_length) < torch.arange(1, batch_size + 1)[:, None]
    key_value = layer.project_key_value(context)
    expected = torch.stack(
        [
            layer(hidden_states[item, None], tuple(part[item, None, : item + 1] for part in key_value))[0]  # cut, not masked
            for item in range(batch_size)
        ]
    )
    for backend in ("native", "_native_math"):
        layer.processor._attention_backend = backend
        torch.testing.assert_close(layer(hidden_states, key_value, mask), expected, atol=1e-5, rtol=1e-5)
