"""A real pretrained VAE and the real T5 tokenizer through the pipeline's own steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from tiny_components import tiny_pipeline, tiny_transformer
from torch import nn
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from jog3r import Jog3rPipeline
from jog3r.pipelines.loading.assemble import load_tokenizer

SharedData = Callable[[str], Path]


class PooledBlock(nn.Module):
    """What TAEF2 adds to some of AutoencoderTiny's blocks: a wide 1x1 bottleneck in front, added to the input."""

    def __init__(self, block: nn.Module, channels: int = 64):
        super().__init__()
        self.conv, self.skip, self.fuse = block.conv, block.skip, block.fuse
        self.pool = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.GroupNorm(4, 4 * channels),
            nn.ReLU(),
            nn.Conv2d(4 * channels, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pool(x)
        return self.fuse(self.conv(x) + self.skip(x))


@pytest.fixture
def real_vae(shared_data: SharedData) -> AutoencoderTiny:
    folder = shared_data("weights_taef2")
    vae = AutoencoderTiny(
        latent_channels=32,
        encoder_block_out_channels=(64,) * 4,
        decoder_block_out_channels=(64,) * 4,
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
    )
    for layers, wrapped in ((vae.encoder.layers, (11, 12, 13)), (vae.decoder.layers, (2, 3, 4))):
        for index in wrapped:
            layers[index] = PooledBlock(layers[index])
    for part, shift in (("encoder", 0), ("decoder", 1)):  # the original counts the decoder's clamp as a layer
        weights = torch.load(folder / f"taef2_{part}.pth", weights_only=True)
        renamed = {}
        for name, tensor in weights.items():
            index, _, rest = name.partition(".")
            renamed[f"{int(index) - shift}.{rest}"] = tensor.float()
        getattr(vae, part).layers.load_state_dict(renamed, strict=True)
    return vae.eval()


@pytest.fixture
def pipe(real_vae: AutoencoderTiny, shared_data: SharedData) -> Jog3rPipeline:
    config = T5Config(vocab_size=32128, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return tiny_pipeline(
        vae=real_vae,
        transformer=tiny_transformer(out_channels=64, in_channels=32, max_caption_length=120),
        text_encoder=T5EncoderModel(config).eval(),
        tokenizer=AutoTokenizer.from_pretrained(shared_data("t5_tokenizer")),
        pointmap_head=None,
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("source", "least_psnr"), [("re10k/videos/3f79dc32d575bcdc.mp4", 32.8), ("sevenscenes_redkitchen/clip_00/images/000.jpg", 30)]
)
def test_real_photographs_come_back(source: str, least_psnr: float, pipe: Jog3rPipeline, shared_data: SharedData) -> None:
    """8x down and back. The weights' own notes say 32.8 to 34.2 dB at 256 pixels; the kitchen's sensor noise costs 2 dB."""
    path = shared_data(source)
    photographs = str(path) if path.suffix == ".mp4" else [Image.open(path).convert("RGB")] * 2
    frames = pipe.prepare_video(photographs)[:, :2]
    latents = pipe.encode_video(frames)
    size = frames.shape[-2:]
    assert latents.shape == (1, 32, 2, size[0] // 8, size[1] // 8)
    assert abs(latents.mean()) < 0.25 and 0.6 < latents.std() < 1.1  # unit spread, as the transformer wants it
    restored = pipe.decode_latents(latents, output_type="pt")
    error = (restored.clamp(0, 1) - frames).square().mean(dim=(0, 2, 3, 4))
    assert (-10 * error.log10()).min() > least_psnr


@torch.no_grad()
def test_real_tokenizer_pads_masks_and_cuts_captions_at_120(pipe: Jog3rPipeline) -> None:
    prompts = ["a room with blue walls", "", "word " * 200]
    embeds, mask, negative, negative_mask = pipe.encode_prompt(prompts)
    assert embeds.shape == (3, 120, 16) and negative.shape == (3, 120, 16)
    assert mask.sum(dim=1).tolist() == [7, 1, 120]  # with the end token: of six pieces; alone; cut
    assert torch.equal(mask, negative_mask)  # the null caption attends to as many tokens as the prompt, as in OpenSora
    assert torch.equal(negative[0], pipe.transformer.null_caption)
    ids = pipe.tokenizer(prompts[0]).input_ids
    alone = pipe.text_encoder(torch.tensor([ids]))[0]
    assert torch.allclose(embeds[0, : len(ids)], alone[0], atol=1e-5)  # the padding behind does not reach the words


def test_a_tokenizer_published_as_spiece_model_alone_is_the_same(shared_data: SharedData, tmp_path: Path) -> None:
    """As in the repository of the XXL encoder that OpenSora conditions on."""
    pytest.importorskip("sentencepiece")
    published = shared_data("t5_tokenizer")
    (tmp_path / "spiece.model").write_bytes((published / "spiece.model").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    expected, tokenizer = AutoTokenizer.from_pretrained(published), load_tokenizer(tmp_path)
    texts = ["A bedroom, the camera moves forward.", "two  spaces\nand 3 caf\u00e9s \u2014 \u6f22\u5b57", "", "<extra_id_3> left"]
    assert tokenizer(texts).input_ids == expected(texts).input_ids
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(texts).input_ids == expected(texts).input_ids
