"""`jog3r view` on the folders that the commands write, and `load_scene` on their cameras.json."""

import json
import shutil
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sfm_scenes import make_room, path, render

from jog3r import tiny_checkpoint
from jog3r.commands.parser import main
from jog3r.export.exporters import load_scene, write_results
from jog3r.export.video import encode_video

pytest.importorskip("viser")
FRAMES = 5
CLIP = render(make_room(1), path(FRAMES, sideways=0.6, forward=0.5, turn_deg=8), (144, 192), 150.0)
RECONSTRUCTIONS = {
    "network": ["--cameras", "network"],
    "windows": ["--cameras", "network", "--window", "4", "--keyframes", "3"],
    "tracks": ["--cameras", "tracks"],
    "auto": ["--depth", "network"],
}


def opened(folder: Path) -> dict[str, int]:
    """How many things of each kind the viewer shows; its page is there."""
    from jog3r.export.viewer import view_scene

    server = view_scene(folder, port=0, block=False)
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=300).read()
        assert b"<html" in page
        names = list(server.scene._handle_from_node_name)
        return {kind: sum(name.startswith(f"/{kind}") and name != "/cameras" for name in names) for kind in ("cameras", "points")}
    finally:
        server.stop()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("view") / "room.mp4"
    file.write_bytes(encode_video(CLIP.frames, 10.0, scale=1, crf=4))
    return file


@pytest.mark.parametrize("kind", RECONSTRUCTIONS)
def test_every_reconstruction_opens(video: Path, tmp_path: Path, kind: str) -> None:
    if kind in ("tracks", "auto"):
        pytest.importorskip("pycolmap")
    assert main(["reconstruct", str(video), *RECONSTRUCTIONS[kind], "--export", "npz", "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "cameras.json").read_text())
    for _ in range(2):
        scene = load_scene(tmp_path / "out")
        assert scene.source == document["source"] != ""
        assert opened(tmp_path / "out") == {"cameras": int(scene.pose_known.sum()), "points": 1}
        (tmp_path / "out" / "scene.npz").unlink(missing_ok=True)  # the second round shows what every run leaves


def test_generated_and_registered_results_open(tmp_path: Path) -> None:
    prompt = "a room with blue walls, the camera moves forward"
    arguments = ["generate", prompt, "--num_inference_steps", "2", "--reconstruction_timestep", "500", "--num_frames", "4"]
    assert main([*arguments, "--model", tiny_checkpoint(), "--out", str(tmp_path / "generated")]) == 0
    known = load_scene(tmp_path / "generated").pose_known.sum()
    assert opened(tmp_path / "generated") == {"cameras": known, "points": 1}
    small = {"frames": CLIP.frames[:3, ::4, ::4], "depth": np.full((3, 36, 48), 2.0), "poses": CLIP.poses[:3]}
    np.savez(tmp_path / "found.npz", **small, intrinsics=np.array([[37.5, 0, 23.5], [0, 37.5, 17.5], [0, 0, 1]]))
    assert main(["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "registered")]) == 0
    assert load_scene(tmp_path / "registered").source == "file"
    assert opened(tmp_path / "registered") == {"cameras": 3, "points": 1}
    for name, remaining in {"without video": {"cameras": 3, "points": 1}, "without cloud": {"cameras": 3, "points": 0}}.items():
        shutil.copytree(tmp_path / "registered", tmp_path / name)
        (tmp_path / name / ("video.mp4" if "video" in name else "pointcloud.ply")).unlink()
        assert opened(tmp_path / name) == remaining


def test_other_folders_are_refused_in_one_line(
    capsys: pytest.CaptureFixture, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = _scene()
    write_results(scene, tmp_path / "result")
    for name in ("cameras alone", "video alone", "others"):
        (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "result" / "cameras.json", tmp_path / "cameras alone")
    shutil.copy(video, tmp_path / "video alone" / "video.mp4")
    (tmp_path / "others" / "cameras.json").write_text("[]")
    shutil.copy(video, tmp_path / "others" / "video.mp4")
    shutil.copytree(tmp_path / "result", tmp_path / "mixed")
    shutil.copy(video, tmp_path / "mixed" / "video.mp4")
    wanted = "neither scene.npz nor cameras.json with video.mp4 or pointcloud.ply; give the folder that generate"
    for name, message in {
        **dict.fromkeys(("cameras alone", "video alone", "missing", "video alone/video.mp4"), wanted),
        "others": "not a cameras.json of jog3r",
        "mixed": "has 5 frames, cameras.json 3; they are of different runs",
    }.items():
        assert main(["view", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    for name, value in (("--port", "9000"), ("--host", "0.0.0.0")):
        assert main(["view", str(tmp_path / "result"), "--html", str(tmp_path / "page.html"), name, value]) == 2
        assert f"{name} has no effect with --html" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    pytest.importorskip("viser")
    lookup = socket.getaddrinfo

    def resolve(host: str, *args: object, **options: object) -> list:
        if host == "nowhere.invalid":  # asked of no name server
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return lookup(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for host in ("203.0.113.7", "nowhere.invalid"):  # viser alone would look for a free port there for ever
        assert main(["view", str(tmp_path / "result"), "--host", host]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"cannot listen on host {host!r}" in line


def test_where_cameras_come_from_and_which_were_laid_between_read_back(tmp_path: Path) -> None:
    laid = np.array([True, False, True])
    scene = replace(_scene(), source="tracks", registered=laid)
    write_results(scene, tmp_path)
    again = load_scene(tmp_path)
    assert again.source == "tracks"
    assert again.registered.tolist() == laid.tolist() and again.pose_known.all()
    path = tmp_path / "cameras.json"  # of version 0.1
    document = json.loads(path.read_text())
    del document["source"]
    for frame in document["frames"]:
        del frame["registered"], frame["time"]
    path.write_text(json.dumps(document))
    earlier = load_scene(tmp_path)
    assert (earlier.source, earlier.registered.tolist()) == ("", [True] * 3)


def _scene():
    from jog3r.export.scene import Scene

    intrinsics = np.tile([[37.5, 0, 23.5], [0, 37.5, 17.5], [0, 0, 1.0]], (3, 1, 1))
    return Scene.from_depth(CLIP.frames[:3, ::4, ::4], np.full((3, 36, 48), 2.0), CLIP.poses[:3], intrinsics)
