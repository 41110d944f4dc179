"""The renderer as judge: scenes that move as they should score high, planted faults low; what it looks at is drawn anew."""

import json

import numpy as np
import pytest
import torch
from tiny_components import tiny_pipeline

from jog3r.commands.parser import main
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation.judges.choosing import choose_judge
from jog3r.evaluation.judges.renderer_judge import RendererJudge, redraw
from jog3r.evaluation.judges.sanity import SANITY_ROWS, sanity_video
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.processes import Processes
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline

COUNT = 4


@pytest.fixture(scope="module")
def clips():
    return [procedural_clip(k, "validation", 5, 48, 48) for k in range(COUNT)]


@pytest.fixture(scope="module")
def judge(clips):
    return RendererJudge(0.3, clips)


def mean(judge, videos):
    """Mean over the videos of how much they move as their scenes."""
    return float(np.mean([judge.look(frames, k)["figure moves as the scene %"] for k, frames in enumerate(videos)]))


def test_true_videos_score_high_and_every_sanity_row_low(judge, clips):
    scores = {
        row: mean(judge, [sanity_video(row, k, COUNT, lambda n: clips[n].frames) for k in range(COUNT)]) for row in SANITY_ROWS
    }
    assert scores["real clips"] > 80
    assert 40 < scores["shuffled frames of different clips"] < 60 and 40 < scores["noise"] < 60
    assert scores["frozen video"] == 0


def test_planted_faults_cost_more_the_larger_they_are(judge, clips):
    def shaken(pixels):
        """Every other frame moved sideways: what no camera of the clip does."""
        return [np.stack([np.roll(frame, pixels * (f % 2), axis=1) for f, frame in enumerate(clip.frames)]) for clip in clips]

    scores = [mean(judge, shaken(pixels)) for pixels in (0, 1, 3)]
    assert scores[0] > scores[1] + 3 > scores[2] + 6
    backwards = mean(judge, [clip.frames[::-1].copy() for clip in clips])
    assert backwards < 55 < scores[0]


def test_figures_are_those_of_the_warp_and_nothing_moves_nowhere(judge, clips):
    found = judge.look(clips[1].frames, 1)
    warp, no_warp = (float(found[f"figure {name}"]) for name in ("warp error", "no-warp error"))
    assert found["figure moves as the scene %"] == pytest.approx(100 * no_warp / (warp + no_warp))
    grey = np.full_like(clips[0].frames, 128)
    assert np.isnan(judge.look(grey, 0)["figure moves as the scene %"])  # neither right nor wrong


def test_clips_are_drawn_anew_from_the_level_asked_for():
    pipe = tiny_pipeline(out_channels=4)
    frames = np.stack([procedural_clip(k, "validation", 4, 16, 16).frames for k in range(2)])
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(float(kwargs["timestep"][0])), with_kwargs=True
    )

    def drawn(level, seeds=(0, 1)):
        seen.clear()
        return redraw(pipe, frames, ["a red chair", "blue walls"], list(seeds), level, {"num_inference_steps": 10})

    with torch.no_grad():
        decoded = np.asarray(pipe.through_vae(frames, "np"))
    nearly = drawn(0.001)
    assert seen == [0.0] and nearly.shape == frames.shape
    assert np.abs(nearly - decoded).mean() < 0.02  # next to no noise: the clip itself through the VAE
    middle = drawn(0.5)
    assert len(seen) == 5 and max(seen) <= 500
    assert np.abs(middle - decoded).mean() > np.abs(nearly - decoded).mean()
    np.testing.assert_array_equal(drawn(0.5), middle)
    assert not np.array_equal(drawn(0.5, (2, 1))[0], middle[0])
    np.testing.assert_allclose(drawn(0.5, (2, 1))[1], middle[1], atol=1e-5)  # a clip's noise is its own
    assert pipe.guidance_scale == 1.0  # as it was
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(ValueError, match=r"redraw_level=0\.05 lies below the last sampling step, 99: raise it"):
        drawn(0.05)
    with pytest.raises(ValueError, match="got a Dust3rPipeline"):
        redraw(Dust3rPipeline.__new__(Dust3rPipeline), frames, ["", ""], [0, 1], 0.5, {"num_inference_steps": 2})


def test_the_command_judges_by_the_renderer(tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "m")
    words = ["evaluate", "t2vc", "--model", str(tmp_path / "m"), "--videos", "3", "--num_inference_steps", "25"]
    words += ["--judge", "renderer", "--redraw_level", "0.5", "--sanity_clips", "2", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "outside judge: renderer: true depth and cameras of the clips" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())["t2vc"]["judge"]
    assert list(found["rows"]) == ["redrawn", "real through the VAE", *SANITY_ROWS]
    assert found["rows"]["redrawn"]["N"] == 3 and not found["agreement"] and found["in_order"] is True
    assert found["settings"]["redraw_level"] == 0.5
    with (
        np.load(tmp_path / "out" / "redrawn" / "000000.npz") as stored,
        np.load(tmp_path / "out" / "t2vc" / "000000.npz") as made,
    ):
        assert stored["frames"].dtype == np.uint8 and not np.array_equal(stored["frames"], made["frames"])


def test_the_option_names_the_judge():
    options = EvaluationOptions(task="t2vc", model="m", out="o", judge="renderer", redraw_level=0.4)
    assert choose_judge(options, None, None, Processes()) == RendererJudge(0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge": "renderer", "source": "posed", "frames": "f"}, "knows the procedural clips alone"),
        ({"judge": "renderer", "seeds": 2}, "looks at one video of each"),
        ({"judge": "renderer", "redraw_level": 0.0}, "above 0 and up to 1, got 0"),
        ({"judge": "sfm", "redraw_level": 0.4}, "redraw_level=0.4 belongs to judge=renderer, got judge=sfm"),
    ],
)
def test_options_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**{"task": "t2vc", "model": "m", "out": "o", **change})
