"""Inception and I3D as the field publishes them: pictures reach the network as they should; planted faults move the distances."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from jog3r.data.files import file_hash
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation import frechet_distance, load_inception, load_scripted_i3d, video_motion
from jog3r.evaluation.scoring import score_consistency, score_distributions
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
