"""Inception and I3D as the field publishes them: pictures reach the network as they should; planted faults move the distances."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from tiny_components import save_clip

from jog3r.data.files import file_hash
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation import frechet_distance, load_inception, load_scripted_i3d, load_text_network, video_motion
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.scoring import Items, score_consistency, score_distributions, score_text_agreement
from jog3r.evaluation.statistics.per_clip import Samples
from jog3r.evaluation.video_metrics import polynomial_mmd


class StandInInception(torch.nn.Module):
    """The interface of the published file: raw uint8 pictures in, its own resize and range, pooled features out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 5, stride=3)

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        resized = functional.interpolate(img.float(), (29, 29), mode="bilinear", align_corners=False)
        found = functional.relu(self.conv((resized - 128) / 128)).mean((2, 3))
        return found if return_features else found.softmax(1)


class StandInI3D(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv3d(3, 6, 3, stride=2)

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if resize:
            x = functional.interpolate(x, (x.shape[2], 20, 20), mode="trilinear", align_corners=False)
        if rescale:
            x = x * 2 / 255 - 1
        found = self.conv(x).mean((2, 3, 4))
        return found if return_features else found.softmax(1)


class Other(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, module in (("inception", StandInInception()), ("i3d", StandInI3D()), ("other", Other())):
        torch.jit.script(module.eval()).save(str(folder / f"{name}.pt"))
    return folder


@pytest.fixture(scope="module")
def videos():
    """Twelve clips (F,H,W,3) uint8."""
    return [procedural_clip(k, "validation", 9, 24, 32).frames for k in range(12)]


@torch.no_grad()
def test_pictures_reach_inception_as_published(files, videos):
    network = load_inception(files / "inception.pt", file_hash(files / "inception.pt"))
    module = StandInInception().eval()
    frames = videos[0]
    pictures = torch.tensor(frames.transpose(0, 3, 1, 2))  # uint8, 0..255, channels RGB, nothing resized before
    small = functional.interpolate(pictures.double(), (29, 29), mode="bilinear", align_corners=False)
    expected = module.double().conv((small - 128) / 128).relu().mean((2, 3))
    found = network.clip(frames)
    assert found.shape == (9, 8)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert not np.allclose(network.clip(frames[..., ::-1]), found, atol=1e-3)  # swapped channels are seen
    assert network.name.endswith(network.sha256[:12])
    rows = score_distributions(np.stack([network.clip(v) for v in videos]), np.stack([network.clip(v) for v in videos[::-1]]))
    assert rows["Fréchet"]["distance"] == pytest.approx(0, abs=1e-9) and rows["Fréchet"]["distance"].n == 12


@torch.no_grad()
def test_clips_reach_i3d_as_published(files, videos):
    found = load_scripted_i3d(files / "i3d.pt").clip(videos[0])
    clip = torch.tensor(videos[0].transpose(3, 0, 1, 2)).double()[None]
    small = functional.interpolate(clip, (9, 20, 20), mode="trilinear", align_corners=False)
    expected = StandInI3D().double().conv(small * 2 / 255 - 1).mean((2, 3, 4))[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    with pytest.raises(ValueError, match="at least 9 frames"):
        load_scripted_i3d(files / "i3d.pt").clip(videos[0][:8])


def test_planted_faults_move_the_distances(files, videos):
    network, film = load_inception(files / "inception.pt"), load_scripted_i3d(files / "i3d.pt")
    real = np.stack([network.clip(video) for video in videos[:6]])  # (N,F,D)

    def distances(sets):
        found = np.stack([network.clip(video) for video in sets])
        return [distance(found.reshape(-1, 8), real.reshape(-1, 8)) for distance in (frechet_distance, polynomial_mmd)]

    fair = distances(videos[6:])
    for fault in (
        [videos[6]] * 6,  # one video again and again
        [video[..., ::-1] for video in videos[6:]],  # BGR for RGB
        [(video // 2).astype(np.uint8) for video in videos[6:]],  # another range
    ):
        assert all(bad > good for bad, good in zip(distances(fault), fair, strict=True))
    moving, true = (np.stack([film.clip(video) for video in part]) for part in (videos[6:], videos[:6]))
    frozen = np.stack([film.clip(np.repeat(video[:1], 9, 0)) for video in videos[6:]])
    assert np.isfinite([frechet_distance(moving, true), frechet_distance(frozen, true)]).all()


def test_a_frozen_video_is_consistent_and_its_motion_says_why():
    clip = procedural_clip(1, "validation", 4, 24, 32)
    still = {name: np.repeat(getattr(clip, name)[:1], 4, 0) for name in ("frames", "depth", "poses", "intrinsics")}
    found = {}
    for name, view in (("moving", vars(clip)), ("frozen", still)):
        item = {key: view[key] for key in ("frames", "depth", "poses", "intrinsics")}
        item |= {f"v2c_{key}": item[key] for key in ("depth", "poses", "intrinsics")}
        found[name] = score_consistency([item, item], [], [], None)["generated, geometry of T2V+C"]
    assert found["frozen"]["met3r_self"] < found["moving"]["met3r_self"]
    assert (
        found["frozen"]["frame_difference"]
        == 0
        < found["moving"]["frame_difference"]
        == pytest.approx(video_motion(clip.frames)["frame_difference"])
    )


def test_files_that_are_something_else_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="not the network that was pinned"):
        load_inception(files / "inception.pt", "0" * 64)
    with pytest.raises(ValueError, match="is no file"):
        load_inception(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="other.pt has another interface than Inception"):
        load_inception(files / "other.pt")
    (tmp_path / "inception.pkl").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    for name in ("inception.pkl", "weights.pt"):
        with pytest.raises(ValueError, match="is no TorchScript file: pickles run code"):
            load_inception(tmp_path / name)
    with pytest.raises(ValueError, match=r"must be \(F,H,W,3\) uint8"):
        load_inception(files / "inception.pt").clip(np.zeros((2, 8, 8, 3), np.float32))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_agreement_with_texts_is_the_cosine_of_clip_itself(clip_folder, videos):
    from transformers import CLIPModel, CLIPTokenizer

    network = load_text_network(clip_folder, file_hash(clip_folder / "model.safetensors"))
    frames = videos[0][:3, 4:20, 2:18]  # as large as the network's pictures: nothing is resized or cut off
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    pixels = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - mean) / std
    tokens = CLIPTokenizer.from_pretrained(clip_folder)("a bed", return_tensors="pt")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    outputs = model(**tokens, pixel_values=pixels)
    expected = 100 * (outputs.image_embeds @ outputs.text_embeds.T).mean()
    assert network.agreement(frames, "a bed") == pytest.approx(float(expected), abs=1e-4)
    assert network.agreement(frames, "a red lamp") != pytest.approx(float(expected), abs=0.1)
    assert np.isfinite(network.agreement(frames, "many words " * 20))  # cut after what the network reads
    wide = np.concatenate([np.zeros_like(frames), frames, np.zeros_like(frames)], 2)  # the middle square counts
    assert network.agreement(wide, "a bed") == pytest.approx(float(expected), abs=1e-4)


def test_a_table_of_agreement_has_chance_and_real_clips_beside(clip_folder, videos):
    network, captions = load_text_network(clip_folder), ["a bed", "red walls", "the floor"]
    real = [{"frames": video} for video in videos[:3]]
    generated = [{"frames": video} for video in videos[3:6]]
    samples = Samples(["0", "1", "2"])
    rows = score_text_agreement(generated, real, captions, network.agreement, Items.one_each(3), samples)
    for name, sets in (("generated", generated), ("real clips through the VAE", real)):
        own = [network.agreement(item["frames"], caption) for item, caption in zip(sets, captions, strict=True)]
        assert rows[name]["agreement"] == pytest.approx(np.mean(own)) and rows[name]["N"] == 3
    strangers = [
        [network.agreement(item["frames"], captions[(k + shift) % 3]) for k, item in enumerate(generated)] for shift in (1, 2)
    ]
    assert rows["chance (other captions)"]["agreement"] in [pytest.approx(np.mean(values)) for values in strangers]
    assert {"text/generated", "text/chance", "text/real through the VAE"} <= set(samples.tables())
    rows = score_text_agreement(
        [generated[0], {"error": "x"}], [], captions[:2], network.agreement, Items.one_each(2), Samples("ab")
    )
    assert rows["generated"]["N"] == 1 and rows["generated"]["failed"] == 1 and "real clips through the VAE" not in rows
    alone = score_text_agreement(generated[:1], [], captions[:1], network.agreement, Items.one_each(1), Samples("a"))
    assert set(alone) == {"generated"}  # there is no other caption


def test_networks_that_read_no_text_are_refused(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="not the network that was pinned"):
        load_text_network(clip_folder, "0" * 64)
    with pytest.raises(ValueError, match="must be pinned"):
        load_text_network("openai/clip-vit-base-patch32")
    for path in clip_folder.iterdir():
        if not path.name.startswith(("tokenizer", "vocab", "merges", "special")):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="has a tokenizer of 2 words for a network of 54"):
        load_text_network(tmp_path)
    with pytest.raises(ValueError, match="text_network is for generated videos: it means nothing to task v2c"):
        EvaluationOptions(task="v2c", model="m", out="o", text_network=str(clip_folder))
