"""The image-encoder baseline: shapes, pairs, saving, training and refusals. Agreement with DUSt3R is in test_parity_dust3r."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from original_checkpoints import dust3r_arguments, dust3r_shapes, random_weights, save_dust3r
from PIL import Image
from safetensors.torch import load_file, save_file

from jog3r import Dust3rPipeline, Jog3rPipeline, register_pointmaps
from jog3r.commands.parser import main
from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.pipelines.long_videos.long_video import reconstruct_long_video
from jog3r.training.losses import pointmap_loss

CONFIG = {
    "width": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "decoder_width": 24,
    "decoder_num_layers": 2,
    "decoder_num_attention_heads": 3,
    "patch_size": 8,
}


@pytest.fixture
def model() -> Dust3rBaseline:
    return Dust3rBaseline(**CONFIG).eval()


def images(frames: int = 3, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_shapes_and_default_pairs(model: Dust3rBaseline) -> None:
    output = model(images())
    assert output.pointmaps.shape == output.anchor_pointmaps.shape == (2, 2, 16, 24, 3)
    assert output.confidence.shape == (2, 2, 16, 24) and output.confidence.min() > 1
    assert output.pairs.tolist() == [[0, 1], [0, 2]]
    assert model.encode_images(images()).shape == (2, 3, 6, 32)


@torch.no_grad()
def test_a_pair_depends_on_its_two_frames_only(model: Dust3rBaseline) -> None:
    pairs = torch.tensor([[2, 1], [1, 2]])
    output, clip = model(images(), pairs=pairs), images()
    clip[:, 0] = 0
    again = model(clip, pairs=pairs)
    assert torch.equal(again.pointmaps, output.pointmaps)
    assert torch.equal(model(images()[:, [2, 1]]).pointmaps[:, 0], output.pointmaps[:, 0])


@torch.no_grad()
def test_saving_and_loading_is_bit_equal(model: Dust3rBaseline, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = Dust3rBaseline.from_pretrained(tmp_path)
    assert {name: again.config[name] for name in CONFIG} == CONFIG
    assert torch.equal(again(images()).pointmaps, model(images()).pointmaps)


def test_every_weight_is_trained_also_with_checkpointing(model: Dust3rBaseline) -> None:
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train().zero_grad()
        output = model(images())
        sum(value.mean() for value in output.to_tuple() if value.is_floating_point()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if "to_k.bias" not in name)
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_it_trains_on_the_pointmap_loss_and_registers_like_the_video_model(model: Dust3rBaseline) -> None:
    clip, optimizer = images(frames=4), torch.optim.Adam(model.parameters(), lr=3e-3)
    truth = torch.randn(2, 16, 24, 3, generator=torch.Generator().manual_seed(1)) * 0.1 + torch.tensor([0.0, 0.0, 2.0])
    valid, losses = torch.ones(2, 16, 24, dtype=torch.bool), []
    for _ in range(15):
        output = model.train()(clip[:, :2])
        loss = pointmap_loss(*(value[:, 0] for value in output.to_tuple()[:4]), truth, truth, valid, valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        pairs = model.eval()(clip)
    result = register_pointmaps(*(value[0] for value in pairs.to_tuple()[:4]), pairs.pairs, num_frames=4)
    assert result.poses.shape == (4, 4, 4) and torch.equal(result.poses[0], torch.eye(4))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 2, 1, 16, 16), (1, 2, 3, 16, 20), (1, 2, 3, 12, 16)])
def test_other_shapes_are_refused(model: Dust3rBaseline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must be .* multiples of 8"):
        model(torch.zeros(shape))


def test_one_frame_has_no_pair(model: Dust3rBaseline) -> None:
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        model(images(frames=1))


def test_a_pipeline_with_a_missing_weight_is_refused_by_name(model: Dust3rBaseline, tmp_path: Path) -> None:
    Dust3rPipeline(model).save_pretrained(tmp_path)
    assert "from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline" in (tmp_path / "pipeline.py").read_text()
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is Dust3rPipeline
    with pytest.raises(ValueError, match="is a Dust3rPipeline and has no component of a Jog3rPipeline"):
        Jog3rPipeline.from_pretrained(tmp_path)
    assert isinstance(Dust3rPipeline.from_pretrained(tmp_path), Dust3rPipeline)
    path = tmp_path / "baseline" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    save_file({key: value for key, value in weights.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"weights of 'baseline' do not fit its config: 1 weights are missing, such as '{name}'"):
        Dust3rPipeline.from_pretrained(tmp_path)


def test_a_converted_folder_reconstructs_and_says_its_licence(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = save_dust3r(tmp_path / "dust3r.pth", random_weights(dust3r_shapes()), dust3r_arguments())
    folder, video, out = tmp_path / "dust3r", tmp_path / "video", tmp_path / "out"
    assert main(["convert", "dust3r", str(file), "--out", str(folder)]) == 0
    card = (folder / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card and "not for commercial use" in card and "Dust3rPipeline.from_pretrained" in card
    assert main(["convert", "dust3r-head", str(file), "--out", str(tmp_path / "head")]) == 0
    assert "license: cc-by-nc-sa-4.0" in (tmp_path / "head" / "README.md").read_text()
    pipe = Dust3rPipeline.from_pretrained(folder)
    video.mkdir()
    for frame, picture in enumerate((images(3, 48, 64)[0] + 1).mul(127).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(video / f"{frame}.png")
    arguments = ["reconstruct", str(video), "--model", str(folder), "--out", str(out)]
    size = str(2 * pipe.token_size)
    capsys.readouterr()
    assert main([*arguments, "--height", size, "--width", size]) == 0
    assert (out / "cameras.json").is_file() and (out / "pointcloud.ply").is_file()
    for refused, message in (
        (["--both_directions"], "both_directions=True belong to a video generator"),
        (["--reconstruction_timestep", "20"], "reconstruction_timestep=20"),
        (["--window", "3"], "video generator"),
        (["--overlap", "1"], "video generator"),
    ):
        capsys.readouterr()
        assert main([*arguments[:-1], str(tmp_path / "other"), "--height", size, "--width", size, *refused]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert main(["generate", "a room", "--model", str(folder), "--out", str(tmp_path / "other")]) == 2
    with pytest.raises(ValueError, match="which a Dust3rPipeline has not"):
        reconstruct_long_video(pipe, torch.zeros(4, 3, 16, 16), window=3, overlap=1)
