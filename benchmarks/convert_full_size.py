"""Converts a random OpenSora 1.0 checkpoint of the full size and compares outputs bit for bit.

    python benchmarks/convert_full_size.py --work FOLDER

Writes a 3 GB `.pth` with OpenSora's names, converts it in a process of its own (so that peak memory is the conversion's
alone), then runs the transformer from the `.pth` and from the folder on the same input. Needs 7 GB of disk, 8 GB of memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from jog3r import Jog3rTransformer3DModel
from jog3r.models.conversion.original_names import OPENSORA

# The kernel's own peak of this process; getrusage's starts from the peak of whoever started it.
PEAK = """
import re
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
CONVERT = """
import sys
from jog3r.pipelines.loading.assemble import convert_opensora
report = convert_opensora(sys.argv[1], sys.argv[2], vae=sys.argv[3], text_encoder=sys.argv[3])["transformer"]
print(f"{report['parameters']:,} parameters; {len(report['used'])} keys used, {len(report['ignored'])} ignored, "
      f"{len(report['missing'])} missing")
"""


def write_checkpoint(path: Path) -> None:
    """A random `.pth` as OpenSora writes it: our random weights packed under its names, and its position buffers."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Jog3rTransformer3DModel().state_dict().items()}
    modules = [*OPENSORA.outside, *(f"blocks.{index}.{name}" for index in range(28) for name in OPENSORA.inside)]
    sources, _, _ = OPENSORA.plan(f"{module}{leaf}" for module in modules for leaf in ("", ".weight", ".bias"))
    tensors = {"pos_embed": torch.zeros(1, 256, 1152), "pos_embed_temporal": torch.zeros(1, 16, 1152)}
    for name, source in sources.items():
        if name in shapes and source.part == 0:
            tensors[source.name] = torch.randn(source.original_shape(shapes[name]), generator=generator) * 0.02
    torch.save({"ema": tensors}, path)


def write_parts(folder: Path) -> None:
    """SD's VAE architecture, and a text encoder of T5-XXL's width but one layer, both random."""
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    ).save_pretrained(folder / "vae")
    config = T5Config(vocab_size=256, d_model=4096, d_kv=64, d_ff=128, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(folder / "tokenizer")


def run_and_measure(code: str, *arguments: str) -> tuple[float, float]:
    """Run Python code in a process of its own, print what it prints; seconds and peak memory in GB."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", code + PEAK, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    *lines, peak = process.stdout.split("\n")[:-1]
    for line in lines:
        print(line)
    return time.perf_counter() - start, int(peak) / 1e6


def predict(model: Jog3rTransformer3DModel) -> torch.Tensor:
    """Two frames of 64 pixels: every weight takes part, in a few seconds."""
    generator = torch.Generator().manual_seed(1)
    latents, captions = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.randn(1, 120, 4096, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([500]), captions).sample


def main() -> None:
    """Print what the conversion cost and whether its result is exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=None, help="folder for the 7 GB (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder_name:
        folder = Path(folder_name)
        checkpoint, out = folder / "opensora.pth", folder / "pipeline"
        write_checkpoint(checkpoint)
        write_parts(folder / "parts")
        size = checkpoint.stat().st_size / 1e9
        _, idle = run_and_measure("import jog3r.pipelines.loading.assemble")
        seconds, peak = run_and_measure(CONVERT, str(checkpoint), str(out), str(folder / "parts"))
        print(f"checkpoint {size:.2f} GB; converted in {seconds:.0f} s; peak memory {peak:.2f} GB = {peak / size:.2f} x the file")
        print(f"({idle:.2f} GB of that are the libraries)")
        print(f"shards: {len(list((out / 'transformer').glob('*.safetensors')))}")
        expected = predict(Jog3rTransformer3DModel.from_single_file(checkpoint))
        ours = predict(Jog3rTransformer3DModel.from_pretrained(out / "transformer"))
        print("outputs from the .pth and from the folder are", "bit-equal" if torch.equal(ours, expected) else "DIFFERENT")


if __name__ == "__main__":
    main()
