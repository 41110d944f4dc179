"""A Space whose model is a DUSt3R baseline: it finds cameras, says that it makes no videos, and has no endpoint for them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from gradio_client import handle_file
from space_files import write_video
from space_server import Running, connected, running_space

from jog3r import Dust3rPipeline, tiny_checkpoint
from jog3r.commands.parser import main
from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.space.look.texts import NO_VIDEOS

CONFIG = {
    **dict(width=32, num_layers=2, num_attention_heads=2, patch_size=8),
    **dict(decoder_width=24, decoder_num_layers=2, decoder_num_attention_heads=3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dust3r") / "dust3r"
    Dust3rPipeline(Dust3rBaseline(**CONFIG)).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def running(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_space(tmp_path_factory.mktemp("space"), other=folder) as running:
        yield running


def test_it_finds_the_cameras_of_a_video(running: Running, folder: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "mine.mp4", 12)
    client = connected(running.url, tmp_path / "downloads")
    status, *_, code, _, table = client.predict(handle_file(str(video)), 4, api_name="/reconstruct")
    assert "4 frames" in status and table.count("<tr>") == 5
    compile(code, "code", "exec")
    assert (
        "from jog3r import Dust3rPipeline\n" in code and "pipe = Dust3rPipeline.from_pretrained(" in code and folder not in code
    )


def test_the_tabs_for_prompts_say_that_it_makes_no_videos(running: Running) -> None:
    texts = [str(component["props"].get("value")) for component in running.page.config["components"]]
    assert sum("makes no videos" in text for text in texts) == 2 and "makes no videos" in NO_VIDEOS
    named = json.dumps(running.page.get_api_info()["named_endpoints"])
    assert "/reconstruct" in named and "/generate" not in named and "/compare" not in named


@pytest.mark.parametrize("first", [True, False])
def test_it_cannot_be_compared(capsys: pytest.CaptureFixture, folder: str, first: bool) -> None:
    models = (folder, tiny_checkpoint()) if first else (tiny_checkpoint(), folder)
    assert main(["serve", "--model", models[0], "--compare", models[1]]) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # below the bars of loading
    assert line.startswith("jog3r: ") and "is a Dust3rPipeline, which makes no videos to compare: leave compare out" in line
