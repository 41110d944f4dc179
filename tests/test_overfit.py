"""The whole loop learns: prepare, train_joint.py and "v2c" on one clip, as benchmarks/overfit_one_clip.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from overfit_one_clip import examine, overfit

from jog3r.training.run.processes import bf16_slowdown
from jog3r.training.run.step_log import read_steps


def test_one_clip_is_known_by_heart_and_its_cameras_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bf16_slowdown() > 2:  # Muon's iterations in float32: without units for bf16 they would take minutes
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    config = overfit(tmp_path)
    losses = [entry["losses"] for entry in read_steps(tmp_path / "run" / "steps.jsonl")]
    for name in ("generation", "reconstruction"):
        start, end = (np.mean([entry[name] for entry in part]) for part in (losses[:20], losses[-20:]))
        assert end < 0.3 * start, name
    known = examine(config)
    print(known)
    assert known.generation < 0.1
    assert known.distance < 0.02
    assert known.rotation_deg < 0.5
    assert known.translation_deg < 2.0
