"""The end of a run and what is shown on the way: pictures, trackers, the upload."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from tiny_components import tiny_pipeline, tiny_transformer
from tiny_generators import tiny_generator
from torch.utils._pytree import tree_leaves
from training_cases import run_here, settings
from training_runs import weights_of

from jog3r import Dust3rBaseline, Dust3rPipeline, Pointmap3DHead
from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.pipelines.latents import in_tiles
from jog3r.training.clips.held_out import HeldClip
from jog3r.training.optimization import build_optimizers
from jog3r.training.run import results
from jog3r.training.run import sample_videos as samples
from jog3r.training.run.processes import start_accelerator
from jog3r.training.run.sample_videos import check_tracker, save_samples
from jog3r.training.run.validation import Validation


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files takes."""

    files: dict[str, bytes] = {}
    created: list[dict] = []

    def do_POST(self) -> None:  # noqa: N802  # the base's name
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://{self.headers['Host']}/owner/name"
        answer: dict = {"url": url, "name": "owner/name", "id": "owner/name"}
        if self.path.endswith("/create"):
            self.created.append(json.loads(body))
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            answer = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}", "hookOutput": ""}
        elif "validate-yaml" in self.path:
            answer = {"errors": [], "warnings": []}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "owner/name", "sha": "0" * 40, "siblings": [], "private": True})

    def _answer(self, values: dict) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(results.HfApi, "__init__", _with_endpoint(results.HfApi.__init__, endpoint))
    Hub.files, Hub.created = {}, []
    yield Hub
    server.shutdown()


def _with_endpoint(initialise: object, endpoint: str) -> object:
    return lambda self: initialise(self, endpoint=endpoint, token="hf_test")


def test_the_result_is_uploaded(hub: type[Hub], tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer" / "weights.safetensors").write_bytes(b"\0\1\2")
    config = settings(push_to_hub=True, hub_model_id="owner/name", hub_private=True)
    results.open_repository(config)
    assert hub.created[0]["name"] == "name" and "private" in json.dumps(hub.created[0])
    results.push_results(tmp_path, config)
    assert hub.files == {"model_index.json": b"{}", "transformer/weights.safetensors": b"\0\1\2"}


def test_nothing_is_sent_unasked(hub: type[Hub], tmp_path: Path) -> None:
    results.open_repository(settings())
    results.push_results(tmp_path, settings())
    assert not hub.created and not hub.files


def test_a_hub_that_refuses_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.HfApi, "__init__", _with_endpoint(results.HfApi.__init__, "http://127.0.0.1:9"))
    with pytest.raises(ValueError, match="hub_model_id='owner/name'"):
        results.open_repository(settings(push_to_hub=True, hub_model_id="owner/name"))


def test_pictures_show_frames_depth_and_paths(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.train()
    pictures = save_samples(pipe, settings(sample_steps=2), tmp_path, 7)
    assert {name: path.name for name, path in pictures.items()} == {
        "frames": "step-0000007.png",
        "cameras": "step-0000007-cameras.png",
    }
    sheet = np.asarray(Image.open(pictures["frames"]))
    assert sheet.shape == (6 * 3 * 16 * 8, 3 * 16 * 8, 3)  # generated, real and depth rows of six clips of three frames
    assert len((tmp_path / "captions.txt").read_text().splitlines()) == 6
    assert pipe.transformer.training and not pipe.pointmap_head.training
    only_generated = save_samples(pipe, settings(sample_steps=2, reconstruction_batch=0), tmp_path, 8)
    assert set(only_generated) == {"frames"}


def test_captions_are_read_beside_the_pipelines_call(tmp_path: Path) -> None:
    """The frames are those of a call with the captions themselves."""
    pipe, config = tiny_pipeline(), settings(sample_steps=2)
    clips = [procedural_clip(index, "validation", 3, 16, 16) for index in range(2)]
    kept: dict[str, torch.Tensor] = {}
    generated = samples._generate(pipe, clips, config, kept)
    options = dict(num_frames=3, height=16, width=16, num_inference_steps=2, guidance_scale=3.0, output_type="np")
    captions = [clip.caption for clip in clips]
    expected = pipe(captions, task="t2v", generator=torch.Generator().manual_seed(0), **options).frames
    np.testing.assert_array_equal(generated, (expected * 255).round().astype(np.uint8))
    pipe.text_encoder.requires_grad_(False).shared.weight.zero_()  # a T5-XXL on a CPU is not asked a second time
    np.testing.assert_array_equal(samples._generate(pipe, clips, config, kept), generated)


@pytest.mark.parametrize("missing", ["text_encoder", "tokenizer"])
def test_without_text_encoder_or_tokenizer_nothing_is_generated(
    missing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = lambda _: [procedural_clip(0, "validation", 3, 16, 16)]
    pictures = save_samples(tiny_pipeline(**{missing: None}), settings(), tmp_path, 1, clips=one)
    assert set(pictures) == {"frames", "cameras"}
    assert Image.open(pictures["frames"]).height == 2 * 16 * 8  # rows of real frames and depth alone
    assert "nothing is generated for the samples: the pipeline has no text encoder or no tokenizer" in caplog.text


class Placed(torch.nn.Module):
    """Says where it was put: a second device is not here."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def to(self, device: str) -> "Placed":
        self.device = device
        return self


def test_samples_are_drawn_on_the_trained_models_device() -> None:
    parts = dict(vae="cpu", text_encoder="cpu", transformer="cuda:0", pointmap_head="cuda:0")
    components = {name: Placed(device) for name, device in parts.items()}
    pipe = SimpleNamespace(components={**components, "scheduler": None}, set_progress_bar_config=lambda **_: None)
    with pytest.raises(KeyError), samples.in_evaluation(pipe):
        assert {name: part.device for name, part in components.items()} == {**parts, "vae": "cuda:0"}
        assert not any(part.training for part in components.values())
        raise KeyError
    assert {name: part.device for name, part in components.items()} == parts
    with samples.in_evaluation(pipe, "cuda:1"):  # one just loaded, as the parts of a sharded one cannot be asked
        devices = {name: part.device for name, part in components.items()}
    assert devices == {"text_encoder": "cpu", **dict.fromkeys(("vae", "transformer", "pointmap_head"), "cuda:1")}
    assert all(part.training for part in components.values())


def test_the_best_with_lora_is_copied_without_moving_what_is_trained(tmp_path: Path) -> None:
    """Moved to another device and back, a transformer loses the hooks by which DDP reduces its gradients."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = {name: value.data_ptr() for name, value in module.state_dict().items()}
    nodes = [value.view_as(value).grad_fn.next_functions[0][0] for value in module.parameters()]
    copied = results._copy_on_cpu(module)
    assert {name: value.data_ptr() for name, value in module.state_dict().items()} == before
    assert nodes == [value.view_as(value).grad_fn.next_functions[0][0] for value in module.parameters()]
    for name, value in copied.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]) and value.data_ptr() != before[name]


def test_held_out_clips_are_decoded_where_samples_are_made_and_in_tiles(tmp_path: Path, monkeypatch) -> None:
    """Not where the VAE waits between two samples, nor a whole clip at once."""
    pipe, asked, decoded = tiny_generator("wan"), [], []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda *args, **kw: (decoded.append(pipe.vae.use_tiling), decode(*args, **kw))[1])

    def clips(count: int) -> list[Clip]:
        asked.append((count, pipe.vae.training))
        return [procedural_clip(index, "validation", 5, 16, 16) for index in range(count)]

    pipe.vae.train()
    sizes = dict(num_frames=5, height=16, width=16, sample_steps=1, reconstruction_batch=0)
    pictures = save_samples(pipe, settings(model="wan", **sizes), tmp_path, 1, clips=clips)
    assert asked == [(2, False)] and Image.open(pictures["frames"]).height == 2 * 2 * 16 * 8
    item = {name: torch.from_numpy(getattr(clips(1)[0], name)) for name in ("depth", "valid", "poses", "intrinsics")}
    item["latents"] = torch.zeros(pipe.transformer.config.in_channels, 2, 2, 2)
    held = HeldClip(type("Stream", (), {"__getitem__": lambda *_: item, "caption_text": lambda *_: "a room"})(), 0)
    assert held.clip(pipe.vae).frames.shape == (5, 16, 16, 3)
    assert decoded == [True] * 3 and not pipe.vae.use_tiling and pipe.vae.training
    with in_tiles(image_vae := tiny_pipeline().vae):  # goes chunk by chunk anyway
        assert not image_vae.use_tiling


def test_clips_to_show_are_decoded_once_however_few_there_are() -> None:
    decoded = []
    held = [SimpleNamespace(clip=lambda _: decoded.append(1) or "clip")] * 2
    validation = Validation({"reconstruction": held}, settings(), None)
    for _ in range(3):
        assert validation.sample_clips(SimpleNamespace(), 6) == ["clip"] * 2
    assert len(decoded) == 2


def test_a_dust3r_shows_what_it_finds(tmp_path: Path) -> None:
    sizes = dict(width=16, num_layers=1, num_attention_heads=2, decoder_width=16, decoder_num_layers=1, patch_size=8)
    pipe = Dust3rPipeline(Dust3rBaseline(**sizes, decoder_num_attention_heads=2))
    pictures = save_samples(
        pipe,
        settings(model="dust3r", trainable="all", generation_batch=0),
        tmp_path,
        1,
        clips=lambda _: [procedural_clip(0, "validation", 3, 16, 16)],
    )
    assert set(pictures) == {"frames", "cameras"}


@pytest.mark.usefixtures("wandb_anew")
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_trackers_get_numbers_and_pictures(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(tracker)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "NUM_CLIPS", 1)
    run_here(tmp_path, tracker=tracker, num_steps=2, sample_every=2, sample_steps=2, generation_batch=1, reconstruction_batch=1)
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = [EventAccumulator(str(path)).Reload().Tags() for path in tmp_path.rglob("*tfevents*")]
        assert {"loss", "gradient_norm"} <= {name for tags in found for name in tags["scalars"]}
        assert {name for tags in found for name in tags["images"]} == {"samples/frames", "samples/cameras"}
    else:
        [log] = tmp_path.rglob("run-*.wandb")
        assert b"gradient_norm" in log.read_bytes()
        pictures = [path.name.split("_")[0] for path in tmp_path.rglob("media/images/samples/*.png")]
        assert sorted(pictures) == ["cameras", "frames"]


@pytest.mark.usefixtures("wandb_anew")
def test_a_resumed_run_goes_on_in_its_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)

    def run_id(folder: str) -> str:
        AcceleratorState._reset_state()
        PartialState._reset_state()
        config = settings(output_dir=str(tmp_path / folder), tracker="wandb")
        accelerator = start_accelerator(config)
        samples.start_trackers(accelerator, config)
        name = accelerator.get_tracker("wandb", unwrap=True).id
        accelerator.end_training()
        return name

    first = run_id("run")
    assert run_id("run") == first
    assert run_id("another") != first


def test_a_paused_run_with_moments_of_8_bits_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    pipe = tiny_pipeline(transformer=tiny_transformer(num_attention_heads=4, attention_head_dim=16, mlp_ratio=4.0))
    pipe.register_modules(pointmap_head=Pointmap3DHead(64, 64, num_layers=1, num_attention_heads=2, patch_size=8))
    changes = dict(optimizer="adamw8bit", num_steps=4, checkpoint_every=2, learning_rate=1e-3)
    whole = run_here(tmp_path, pipe, output_dir=str(tmp_path / "whole"), **changes)
    halves = str(tmp_path / "halves")
    run_here(tmp_path, output_dir=halves, **changes, stop_after_minutes=0.0)
    saved = torch.load(next(Path(halves).glob("step-*")) / "progress.pt", weights_only=True)["optimizers"][0]["state"]
    assert torch.uint8 in {value.dtype for value in tree_leaves(saved) if isinstance(value, torch.Tensor)}
    resumed = run_here(tmp_path, output_dir=halves, **changes)
    expected, found = weights_of(whole / "pipeline"), weights_of(resumed / "pipeline")
    start = weights_of(tmp_path / "init")
    assert expected.keys() == found.keys() and any(not torch.equal(start[name], found[name]) for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[8bit\]' in the checkout"):
        build_optimizers([("weight", torch.nn.Parameter(torch.zeros(2, 2)))], settings(optimizer="adamw8bit"))
    monkeypatch.setattr("jog3r.training.run.sample_videos.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"tracker=wandb needs the package wandb: pip install '\.\[wandb\]' in the checkout"):
        check_tracker("wandb")
    with pytest.raises(ValueError, match=r"'\.\[train\]'"):
        check_tracker("tensorboard")
