"""A running Space through its API: results, the bound of the queue, stops and time limits that free the worker, files that go."""

import html
import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")
from gradio_client import Client, handle_file
from PIL import Image
from space_files import write_video
from space_server import (
    PATIENCE_SECONDS,
    PROMPT,
    Running,
    assert_worker_becomes_free,
    connected,
    held_layers,
    join_queue,
    running_space,
    wait_for,
)

from jog3r.data.video import read_video

GOOD = (PROMPT, 0, 20, 1.0, 4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_space(tmp_path_factory.mktemp("space"), compare=True, waiting=2) as running:
        yield running


@pytest.fixture
def client(running: Running, tmp_path: Path) -> Client:
    return connected(running.url, tmp_path / "downloads")


def test_text_to_video_and_cameras(client: Client, running: Running, capfd, caplog):
    status, video, view, path, data, files, code = client.predict("zqx " + PROMPT, *GOOD[1:], api_name="/generate")
    assert "Done" in status and "4 frames" in status and repr("zqx " + PROMPT) in code
    assert len(read_video(video).frames) == 4
    assert np.asarray(Image.open(path)).std() > 5
    assert data["status"] in html.unescape(status) and data["convention"] == "opencv_cam_to_world" and data["fps"] == 8
    assert all({"index", "pose", "intrinsics", "doubtful"} <= set(frame) for frame in data["frames"]) and len(data["frames"]) == 4
    by_name = {Path(file).name: Path(file) for file in files}
    wanted = {"video.mp4", "pointcloud.glb", "pointcloud.ply", "cameras.json", "colmap.zip", "everything.zip"}
    # Random weights may give frames that share no points.
    assert set(by_name) == wanted - ({"colmap.zip"} if "No COLMAP" in status else set())
    assert by_name["pointcloud.glb"].read_bytes()[:4] == b"glTF"
    shown = json.loads(html.unescape(re.search(r'data="([^"]+)"', view)[1]))["addresses"]["cloud"]
    assert urllib.request.urlopen(running.url + shown).read() == by_name["pointcloud.glb"].read_bytes()
    assert len(json.loads(by_name["cameras.json"].read_text())["frames"]) == 4
    assert _printed_nothing_of("zqx", capfd, caplog)


@pytest.mark.parametrize(
    "data, sentence",
    [
        (["zqx a room"], "The request has 1 values; 5 are needed."),
        (["zqx a room", "zqx", 20, 1.0, 4], "wrong kind"),
        (["zqx a room", 0, {"zqx": 1}, 1.0, 4], "wrong kind"),
        ([{"zqx": "a room"}, -7654321, 20, 1.0, 4], "Seed must be between 0 and 2147483647."),
        (["zqx a room", 0, 7654321, 1.0, 4], "Steps must be between "),
    ],
)
def test_what_cannot_be_a_request_is_refused_and_not_logged(running: Running, data: list, sentence: str, capfd, caplog):
    assert sentence in _call(running, "generate", data)
    assert _printed_nothing_of("zqx", capfd, caplog)


def test_an_unknown_choice_is_refused_without_its_words(running: Running):
    told = _call(running, "reconstruct", [None, 4, "zqx"])
    assert "wrong kind" in told and "zqx" not in told


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_a_server_of_one_machine_refuses_strangers_names_and_pages(running: Running, headers: dict[str, str]):
    request = urllib.request.Request(
        f"{running.url}gradio_api/call/generate", b"{}", {"Content-Type": "application/json"} | headers
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def _printed_nothing_of(text: str, capfd, caplog) -> bool:
    printed = capfd.readouterr()
    everything = printed.out + printed.err + caplog.text
    return text not in everything and "7654321" not in everything and "Traceback" not in everything


def _call(running: Running, name: str, data: list) -> str:
    """What the events of a call say."""
    call = f"{running.url}gradio_api/call/{name}"
    request = urllib.request.Request(call, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(f"{call}/{json.load(urllib.request.urlopen(request))['event_id']}").read().decode()


def test_the_code_of_a_result_gives_the_same_clip(client: Client, running: Running):
    result = client.predict(PROMPT, 5, 20, 2.5, 4, api_name="/generate")
    code = result[-1].replace("tiny_checkpoint)", f"{running.space.model.path!r})")
    names: dict = {}
    exec(compile(code, "code", "exec"), names)  # noqa: S102  # what the page shows has to run
    ours = json.loads(Path(next(file for file in result[5] if file.endswith("cameras.json"))).read_text())
    np.testing.assert_allclose(names["out"].poses[0].numpy(), [frame["pose"] for frame in ours["frames"]], atol=1e-5)


def test_video_to_cameras(client: Client, tmp_path: Path):
    video = write_video(tmp_path / "mine.mp4", 12)
    status, *_, code, matches, table = client.predict(handle_file(str(video)), 4, api_name="/reconstruct")
    assert "4 frames" in status and table.count("<tr>") == 5 and "[0, 4, 7, 11]" in code
    assert "Looked at 4 frames of the video, evenly from 1 to 12." in status
    assert matches is None or Path(matches).is_file()


def test_an_upload_that_was_deleted_meanwhile_is_said_to_have_expired(running: Running, tmp_path: Path):
    upload = running.space.folder.served / "0a1b" / "mine.mp4"
    upload.parent.mkdir()
    upload.write_bytes(write_video(tmp_path / "mine.mp4", 8).read_bytes())
    upload.unlink()
    video = {"path": str(upload), "meta": {"_type": "gradio.FileData"}}
    assert "The upload has expired; give the video again." in _call(running, "reconstruct", [video, 4, "auto"])


def test_comparison_of_two_checkpoints(client: Client, running: Running):
    job = client.submit(PROMPT, 0, 20, 1.0, api_name="/compare")
    status, player, (left, right), left_map, right_map, code = job.result(timeout=PATIENCE_SECONDS)
    assert re.search(r"left [\d.]+ over \d+%|left none, since no frame", status)
    stages = [re.search(r"<label>(.*?)<progress max=\"100\" value=\"(\d+)\"", str(output[0])) for output in job.outputs()[:-1]]
    sides = [stage[1].split(":")[0] for stage in stages if stage]
    assert sides == sorted(sides) and set(sides) == {"left", "right"}
    shares = [int(stage[2]) for stage in stages if stage]
    assert shares == sorted(shares) and shares[-1] > 90
    # The left pair is there as soon as it is done.
    assert any(len(output[2] or ()) == 1 and output[3] and not output[4] for output in job.outputs())
    assert all(name in player for name in ("video.jpg", "depth2.jpg")) and "left: " in player
    # The second folder holds the same weights: same prompt and seed, same clip.
    assert (read_video(left).frames == read_video(right).frames).all()
    assert Path(left_map).read_bytes() == Path(right_map).read_bytes()
    # Where the server's folders lie does not show; with them, the code runs and comes to the same.
    assert code.count("'path/to/your/model'") == 1 and str(running.space.compare.path) not in code
    code = code.replace("'path/to/your/model'", repr(running.space.compare.path))
    names: dict = {}
    exec(compile(code.replace("tiny_checkpoint)", f"{running.space.model.path!r})"), "code", "exec"), names)  # noqa: S102  # it has to run
    assert (f"{names['maps'].mean:.1f} over" if names["maps"].seen.any() else "none, since") in status


def test_the_page_names_its_endpoints(client: Client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/generate", "/reconstruct", "/compare"}
    assert all(endpoint["description"] for endpoint in endpoints.values())


def test_a_full_queue_says_so_and_what_is_in_it_is_not_mixed_up(client: Client, running: Running):
    """One request works and 2 wait: a fourth is turned away, whatever it is that works."""
    with held_layers(running.space) as begun:
        jobs = {0: client.submit(PROMPT, 0, *GOOD[2:], api_name="/generate")}
        assert begun.wait(PATIENCE_SECONDS)
        for seed in (1, 2):
            jobs[seed] = client.submit(PROMPT, seed, *GOOD[2:], api_name="/generate")
            wait_for(lambda seed=seed: jobs[seed].communicator.event_id)
        with pytest.raises(Exception, match="(?i)queue is full"):
            client.predict(PROMPT, 3, *GOOD[2:], api_name="/generate")
    results = {seed: job.result(timeout=PATIENCE_SECONDS) for seed, job in jobs.items()}
    assert all("Done" in result[0] and f"manual_seed({seed})" in result[-1] for seed, result in results.items())


@pytest.mark.parametrize("early", [False, True])
def test_a_stop_frees_the_worker(client: Client, running: Running, early: bool):
    with held_layers(running.space) as begun:
        job = client.submit(PROMPT, 0, 100, 2.5, 4, api_name="/generate")
        assert early or begun.wait(PATIENCE_SECONDS)
        wait_for((lambda: job.communicator.event_id) if early else job.outputs)
        job.cancel()
        assert_worker_becomes_free()


def test_a_stop_amid_the_only_pass_frees_the_worker(client: Client, running: Running, tmp_path: Path):
    video = handle_file(str(write_video(tmp_path / "mine.mp4", 8)))
    with held_layers(running.space) as begun:
        job = client.submit(video, 4, api_name="/reconstruct")
        assert begun.wait(PATIENCE_SECONDS)
        wait_for(job.outputs)
        assert list((running.space.folder.path / "requests").iterdir())
        job.cancel()
        assert_worker_becomes_free()
    wait_for(lambda: not list((running.space.folder.path / "requests").iterdir()))


def test_a_closed_page_frees_the_worker(client: Client, running: Running):
    session = uuid.uuid4().hex
    with held_layers(running.space) as begun:
        join_queue(running, "generate", (PROMPT, 0, 100, 2.5, 4), session)
        stream = urllib.request.urlopen(f"{running.url}gradio_api/queue/data?session_hash={session}", timeout=PATIENCE_SECONDS)
        assert begun.wait(PATIENCE_SECONDS)
        assert any(b"process_generating" in line for line in stream)  # the page follows its request
        stream.close()
        assert_worker_becomes_free()
    assert "Done" in client.predict(*GOOD, api_name="/generate")[0]  # after all these stops


def test_files_are_deleted_after_their_time(client: Client, running: Running):
    served = [path for path in running.space.folder.served.rglob("*") if path.is_file()]
    assert served and not list((running.space.folder.path / "requests").iterdir())
    object.__setattr__(running.space.folder, "keep_seconds", -1)
    try:
        running.space.folder.remove_old()
    finally:
        object.__setattr__(running.space.folder, "keep_seconds", 3600)
    assert not [path for path in running.space.folder.served.rglob("*") if path.is_file()]
    assert "Done" in client.predict(*GOOD, api_name="/generate")[0]  # the next request is not disturbed
