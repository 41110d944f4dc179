"""The paper's tables with runs beside: its numbers, our columns, and a letter for each difference of protocol."""

import json

import pytest

from jog3r.commands.parser import main
from jog3r.evaluation.statistics.paper_tables import paper_tables


def figure(value):
    return {"value": value, "low": value - 1, "high": value + 1, "n": 180}


POSES = {name: figure(3.0) for name in ("rotation_deg", "translation_deg", "rra@5", "rta@5", "maa@30")}


def write(folder, **results):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"model": "m", **results}))
    return folder


def v2c(**settings):
    common = {
        "N": 180,
        "source": "realestate10k",
        "frames": 16,
        "size": [256, 256],
        "resize_mode": "stretch",
        "clip_list": "realestate10k_test_180",
    }
    return {"settings": {**common, **settings}, "first": {"model": POSES, "constant pose": POSES}}


def t2vc(**settings):
    common = {"N": 180, "source": "realestate10k", "frames": 16, "size": [256, 256], "features": "vit at 224 px"}
    common |= {"clip_list": "realestate10k_test_180"}
    rows = {"Fréchet": {"distance": figure(80.0)}, "kernel (KID)": {"distance": figure(0.1)}}
    return {
        "settings": {**common, **settings},
        "distributions": {"Inception (TorchScript), sha256 0": rows, "I3D logits": rows, "vit": rows},
        "consistency": {"generated, geometry of T2V+C": {"met3r_self": figure(0.07)}},
        "judge": {"rows": {"generated": {"placed %": figure(90.0)}}},
    }


def test_rows_stand_in_the_papers_columns(tmp_path, capsys):
    ours = write(tmp_path / "ours", v2c=v2c(), t2vc=t2vc())
    found = paper_tables([ours, write(tmp_path / "far", v2c=v2c(source="posed", clip_list="dl3dv_70", N=70))])
    assert found["table_1"]["paper: JOG3R"] == {"fid": 79.94, "fvd": 1742.73, "met3r_self": 0.0736}
    assert found["table_2"]["paper: JOG3R"]["dl3dv maa@30"] == 34.22
    [name] = [name for name in found["table_1"] if not name.startswith("paper")]
    row = found["table_1"][name]
    assert (row["fid"], row["fvd"], row["kid"], row["met3r_self"], row["placed %"]) == (80, 80, 0.1, 0.07, 90)
    assert row["fid"].low == 79 and name == "ours (a)" and "through the VAE" in found["notes"]["a"]
    assert found["table_2"]["ours"]["realestate10k maa@30"] == 3 and "dl3dv maa@30" not in found["table_2"]["ours"]
    assert found["table_2"]["far"]["dl3dv rra@5"] == 3
    # baselines of one protocol are one row
    assert set(found["table_2"]["constant pose"]) == {f"{d} {name}" for d in ("realestate10k", "dl3dv") for name in POSES}
    assert main(["evaluate", "tables", str(ours), "--out", str(tmp_path / "t")]) == 0
    shown = capsys.readouterr().out
    assert "| paper: JOG3R | 79.94 | 1742.73 | 0.0736 | - | - |" in shown and "| paper: pre-trained OpenSora | 115.36 |" in shown
    assert "| paper: frozen OpenSora + head | 0.40 | 26.72 | 99.80 |" in shown
    assert "In brackets beside a distance: value -/+ 1.96 standard deviations" in shown
    assert json.loads((tmp_path / "t" / "tables.json").read_text())["table_1"]["ours (a)"]["fid"]["n"] == 180
    assert "\\begin{tabular}" in (tmp_path / "t" / "tables.tex").read_text()


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"size": [64, 64]}, "frames of 64 x 64 pixels (paper: 256 x 256)"),
        ({"size": "the videos'"}, "frames of the videos' pixels (paper: 256 x 256)"),
        ({"frames": 8}, "8 frames (paper: 16)"),
        ({"resize_mode": "crop"}, "frames cropped (paper: stretched)"),
        ({"clip_list": None}, "clips chosen by their order, not by a list"),
        ({"V2C": "both directions"}, "both directions of each video read (paper: once)"),
        ({"registration shared_focal": False}, "registration shared_focal: False"),
        ({"windows": "all", "videos": 3}, "several windows of a video (3 videos)"),
        ({"left out": 3}, "3 listed videos are missing"),
        ({"source": "posed", "clip_list": "dl3dv_70", "N": 60}, "60 clips (paper: 70)"),
        ({"N": 20}, "20 clips (paper: 180)"),
        ({"clip_list": "mine"}, "clips of the list mine (of the package: realestate10k_test_180)"),
        (
            {"clip_list_sha256": "0123456789"},
            "clips of the list realestate10k_test_180, sha256 01234567 (of the package: realestate10k_test_180)",
        ),
    ],
)
def test_each_difference_of_protocol_is_marked(tmp_path, settings, note):
    found = paper_tables([write(tmp_path / "run", v2c=v2c(**settings))])
    assert found["notes"] == {"a": note} and "run (a)" in found["table_2"]


def test_videos_of_other_protocols_and_results_without_a_column(tmp_path):
    found = paper_tables([write(tmp_path / "run", t2vc=t2vc(source="procedural", N=64, features="colours", size=[16, 64, 64]))])
    notes = set(found["notes"].values())
    assert {"other data: procedural", "64 captions (paper: 180)", "MEt3R on colours (paper: DINO)"} < notes
    assert "16 frames (paper: 16)" not in notes
    found = paper_tables([write(tmp_path / "several", t2vc=t2vc(**{"videos a caption": 4}))])
    assert "4 videos a caption (paper: 1)" in found["notes"].values()
    found = paper_tables([write(tmp_path / "own", v2c=v2c(source="posed"))])
    assert found["not_shown"] == {str(tmp_path / "own"): "v2c of posed: neither RealEstate10K nor DL3DV"}


def test_folders_without_results_are_refused(tmp_path, capsys):
    for words, message in (([], "got none"), ([tmp_path], "holds no results.json")):
        assert main(["evaluate", "tables", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    folder = write(tmp_path / "bad", v2c={})
    assert main(["evaluate", "tables", str(folder)]) == 2
    assert "v2c has no settings" in capsys.readouterr().err
