"""From an original OpenSora 1.0 checkpoint to a complete pipeline folder, without ever holding its weights in memory."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from jog3r.data.files import replace_folder
from jog3r.models.conversion.checkpoint_files import read_checkpoint
from jog3r.models.conversion.convert import Conversion, inspect_dust3r_head, inspect_opensora
from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.latents import vae_scale_factor
from jog3r.pipelines.loading.checked_weights import pipeline_shim
from jog3r.pipelines.loading.model_card import model_card
from jog3r.pipelines.loading.whole_component import TEXT_ENCODER_OPTIONS, load_whole
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

logger = logging.getLogger(__name__)

DEFAULT_VAE = "stabilityai/sd-vae-ft-ema"
DEFAULT_TEXT_ENCODER = "DeepFloyd/t5-v1_1-xxl"
# Every shard is mapped, checked, written and dropped before the next: this bounds the memory of a conversion.
MAX_SHARD_SIZE = "400MB"
REPORT_NAME = "conversion.json"
_VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
_HEAD_LAYERS = 6  # of the paper; DUSt3R has 12


def opensora_scheduler() -> DDPMScheduler:
    """The improved-DDPM schedule of OpenSora 1.0; at 100 steps it visits t = 999, 989, ..., 10, 0 as the original does."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="epsilon",
        variance_type="learned_range",
        clip_sample=False,
        timestep_spacing="linspace",
    )


def convert_opensora(
    checkpoint: str | Path,
    output: str | Path,
    *,
    vae: str | Path = DEFAULT_VAE,
    text_encoder: str | Path = DEFAULT_TEXT_ENCODER,
    tokenizer: str | Path | None = None,
    dust3r: str | Path | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Assemble a folder for `Jog3rPipeline.from_pretrained`; nothing is left behind when anything is refused.

    Args:
        checkpoint: original file, `.pth` or `.safetensors`.
        output: folder to make; must not exist.
        vae, text_encoder, tokenizer: local folder or hub id, of the component or of a pipeline that has it; the tokenizer
            is taken from beside the text encoder where not given.
        dust3r: DUSt3R checkpoint with a linear head to start the head from; None = a fresh head.
        config: what the weights cannot tell, for `jog3r.models.conversion.convert.inspect_opensora` (`space_scale`,
            `sample_size`, ...); `head_*` goes to `Pointmap3DHead` (such as `head_hidden_dim`).

    Returns:
        The report, also saved as conversion.json: every weight used, ignored or missing.

    Raises:
        FileExistsError: where `output` exists.
        FileNotFoundError, ValueError, TypeError: for files or folders that do not fit; see `inspect_opensora`.
        ImportError: the tokenizer is a spiece.model alone, and the extra `convert`, which reads it, is not installed.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; give a folder that does not")
    report: dict[str, Any] = {}

    def write(folder: Path) -> None:
        folder.mkdir()
        parts: dict[str, Any] = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "dust3r": dust3r}
        report.update(write_opensora_pipeline(checkpoint, folder, **parts, **config))

    replace_folder(output, write)
    return report


def write_opensora_pipeline(
    checkpoint: str | Path,
    folder: Path,
    *,
    vae: str | Path = DEFAULT_VAE,
    text_encoder: str | Path = DEFAULT_TEXT_ENCODER,
    tokenizer: str | Path | None = None,
    dust3r: str | Path | None = None,
    **config: Any,
) -> dict[str, Any]:
    """`convert_opensora` into an empty `folder` that exists, for callers that write aside themselves."""
    head_config = {name.removeprefix("head_"): config.pop(name) for name in list(config) if name.startswith("head_")}
    conversion = inspect_opensora(Jog3rTransformer3DModel, checkpoint, **config)
    transformer = conversion.model
    factor = _write_vae(vae, folder / "vae", transformer.config.in_channels)
    # all that may be refused comes before the gigabytes of the text encoder
    _check_text_encoder(text_encoder, transformer.config.caption_channels)
    load_tokenizer(text_encoder if tokenizer is None else tokenizer).save_pretrained(folder / "tokenizer")
    _write_text_encoder(text_encoder, folder / "text_encoder")
    scheduler = opensora_scheduler()
    scheduler.save_pretrained(folder / "scheduler")
    head_sizes = {"feature_dim": transformer.width, "patch_size": factor * transformer.config.patch_size}
    head, head_report = _make_head(dust3r, head_sizes | head_config)
    head.save_pretrained(folder / "pointmap_head", max_shard_size=MAX_SHARD_SIZE)
    write_conversion(conversion, folder / "transformer")
    _write_index(folder, transformer, head, scheduler)
    report = {"transformer": conversion.report(), "pointmap_head": head_report}
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%s: %d weights used, %d ignored", checkpoint, len(conversion.used), len(conversion.ignored))
    return report


def write_conversion(conversion: Conversion, folder: Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
    """Save a converted model as diffusers does, shard by shard; at any time one shard is in memory.

    Raises:
        ValueError: a weight holds NaN or infinite values.
    """
    folder.mkdir(parents=True)
    conversion.model.save_config(folder)
    name = "diffusion_pytorch_model"
    shards = split_torch_state_dict_into_shards(
        {key: tensor.to(conversion.dtype) for key, tensor in conversion.model.state_dict().items()},  # on the meta device
        filename_pattern=f"{name}{{suffix}}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file_name, keys in shards.filename_to_tensors.items():
        # mapped anew: pages that were read stay in memory as long as their mapping does
        part = dataclasses.replace(conversion, checkpoint=read_checkpoint(conversion.checkpoint.path, verify=False))
        save_file({key: part.read(key).contiguous() for key in keys}, folder / file_name, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _make_head(dust3r: str | Path | None, config: dict[str, Any]) -> tuple[Pointmap3DHead, dict[str, Any]]:
    if dust3r is None:
        return Pointmap3DHead(**config, trained=False), {"fresh": True}
    conversion = inspect_dust3r_head(Pointmap3DHead, dust3r, **{"num_layers": _HEAD_LAYERS, "feature_norm": True} | config)
    return conversion.load(), conversion.report()


def _write_vae(source: str | Path, folder: Path, latent_channels: int) -> int:
    """Save the VAE; returns its pixels per latent."""
    found = _component_folder(source, "vae", ["*.json", "*.safetensors", "*.bin"])
    name = _read_json(found / "config.json").get("_class_name", "AutoencoderKL")
    if name not in _VAES:
        raise ValueError(f"{source} is a {name}; the pipeline takes {' or '.join(_VAES)}")
    vae = _load(lambda: load_whole(_VAES[name], found, "vae"), source)
    if vae.config.latent_channels != latent_channels:
        raise ValueError(f"{source} has {vae.config.latent_channels} latent channels, the transformer {latent_channels}")
    vae.save_pretrained(folder)
    return vae_scale_factor(vae)


def _check_text_encoder(source: str | Path, caption_channels: int) -> None:
    settings = _read_json(_component_folder(source, "text_encoder", ["config.json"]) / "config.json")
    if settings.get("model_type") != "t5":
        raise ValueError(f"{source} is a {settings.get('model_type')!r} model, expected a T5 encoder")
    if settings.get("d_model") != caption_channels:
        raise ValueError(
            f"{source} gives embeddings of {settings.get('d_model')} channels, the transformer reads {caption_channels}"
        )


def _write_text_encoder(source: str | Path, folder: Path) -> None:
    """Copy the encoder's files where they are what we would write; a T5-XXL never passes through memory then."""
    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    found = _component_folder(source, "text_encoder", patterns)
    if not list(found.glob("*.safetensors")):  # older repositories have pickled weights alone
        found = _component_folder(source, "text_encoder", [*patterns, "*.bin", "*.bin.index.json"])
    files = sorted(file for file in found.glob("model*.safetensors") if file.name.count(".") == 1)  # no variants, such as fp16
    if _is_plain_encoder(found, files, source):
        folder.mkdir()
        for file in (found / "config.json", *files, *found.glob("model.safetensors.index.json")):
            shutil.copyfile(file, folder / file.name)
    else:
        encoder = _load(lambda: load_whole(T5EncoderModel, found, "text_encoder", **TEXT_ENCODER_OPTIONS), source)
        encoder.save_pretrained(folder, max_shard_size="5GB")


def _is_plain_encoder(folder: Path, files: list[Path], source: str | Path) -> bool:
    """Whether the safetensors files hold exactly a T5 encoder; otherwise it is loaded and saved."""
    with torch.device("meta"):
        expected = {
            name: list(tensor.shape) for name, tensor in T5EncoderModel(T5Config.from_pretrained(folder)).state_dict().items()
        }
    shapes: dict[str, list[int]] = {}
    for file in files:

        def read(file: Path = file) -> dict[str, list[int]]:
            with safe_open(file, framework="pt") as content:
                return {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118  # not a dictionary

        shapes |= _load(read, source)
    tied = {"encoder.embed_tokens.weight"}  # the same as shared.weight, saved or not
    return bool(files) and {**expected, **shapes} == expected and set(expected) - set(shapes) <= tied


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub repository, of the component or of a pipeline.

    Raises:
        ImportError: it is a spiece.model alone, and a library that reads those is missing.
        ValueError: there is none, or it cannot be read.
    """
    folder = _component_folder(source, "tokenizer", ["*token*", "spiece.model", "config.json"], None)
    needs_conversion = (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file()
    if needs_conversion and not (is_sentencepiece_available() and is_protobuf_available()):
        raise ImportError(
            f"the tokenizer of {source} is a spiece.model alone, which needs sentencepiece and protobuf to be read: "
            "pip install '.[convert]' in the checkout of jog3r"
        )
    return _load(lambda: AutoTokenizer.from_pretrained(folder), source)


def _component_folder(source: str | Path, component: str, patterns: list[str], needed: str | None = "config.json") -> Path:
    """The folder of a component: `source` itself or its subfolder, local or downloaded from the hub."""
    folder = Path(source)
    if not folder.is_dir():
        inside = [f"{component}/{pattern}" for pattern in patterns]
        folder = Path(_load(lambda: snapshot_download(str(source), allow_patterns=inside), source))
        if not (folder / component).is_dir():  # the repository is the component; the hub's * crosses folders
            folder = Path(_load(lambda: snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=["*/*"]), source))
    if (folder / component).is_dir():
        folder = folder / component
    if needed is not None and not (folder / needed).is_file():
        raise ValueError(f"{source} has no {component}: neither {needed} nor a subfolder {component!r} in it")
    return folder


def _load(read: Callable[[], Any], source: str | Path) -> Any:
    """What `read` returns; the loading libraries' many complaints become one that names the source."""
    try:
        return read()
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError, HfHubHTTPError) as error:
        raise ValueError(f"cannot read {source} (a local folder or a hub id): {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = _load(lambda: json.loads(path.read_text(encoding="utf-8")), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no configuration, but a {type(content).__name__}")
    return content


def _write_index(folder: Path, transformer: Any, head: Pointmap3DHead, scheduler: DDPMScheduler) -> None:
    """The pipeline's own files, as `save_pretrained` writes them; the large components are there as configurations alone."""
    vae_config = _read_json(folder / "vae" / "config.json")
    with torch.device("meta"):
        vae = _VAES[vae_config["_class_name"]].from_config(vae_config)
        text_encoder = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    pipe = Jog3rPipeline(vae, text_encoder, tokenizer, transformer, head, scheduler)
    pipe.save_config(folder)
    (folder / "README.md").write_text(model_card(pipe), encoding="utf-8")
    (folder / "pipeline.py").write_text(pipeline_shim(Jog3rPipeline), encoding="utf-8")
