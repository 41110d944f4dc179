"""`jog3r evaluate tables RESULTS ...`: tables 1 and 2 of the paper (arXiv 2501.01409) with our rows below, protocols told apart.

A row of ours is marked by a letter for each thing that differs from what the paper says of its protocol, or that it leaves open.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jog3r.evaluation.clips.clip_list import ClipList
from jog3r.evaluation.report import INTERVALS, SCATTER, Block, Heading, Printed, Table, from_json

__all__ = ["paper_tables", "tables_blocks"]

_POSES = ("rotation_deg", "translation_deg", "rra@5", "rta@5", "maa@30")
TABLE_1_COLUMNS = {"fid": "FID", "fvd": "FVD", "met3r_self": "MEt3R (met3r_self)", "kid": "KID", "placed %": "placed by sfm %"}
TABLE_1 = {
    "pre-trained OpenSora": (115.36, 1872.41, 0.0819),
    "reconstruction loss only": (94.52, 1797.07, 0.0772),
    "fine-tuned OpenSora": (88.02, 1440.92, 0.0913),
    "JOG3R": (79.94, 1742.73, 0.0736),
}
DATA = {"realestate10k": "RealEstate10K", "dl3dv": "DL3DV"}
_HEADS = dict(zip(_POSES, ("rot deg", "trans deg", "RRA@5 %", "RTA@5 %", "mAA@30 %"), strict=True))
TABLE_2_COLUMNS = {f"{data} {name}": f"{title} {head}" for data, title in DATA.items() for name, head in _HEADS.items()}
TABLE_2 = {
    "frozen OpenSora + head": (0.40, 26.72, 99.80, 11.63, 38.40, 6.49, 39.53, 65.06, 2.81, 19.70),
    "reconstruction loss only": (0.28, 21.13, 99.90, 19.23, 49.49, 4.54, 30.05, 76.27, 7.88, 33.60),
    "JOG3R": (0.29, 22.15, 99.80, 19.18, 47.25, 4.20, 29.17, 78.63, 7.86, 34.22),
    "DUSt3R pre-trained": (0.53, 27.86, 99.12, 13.70, 40.20, 1.33, 14.75, 97.53, 47.03, 65.73),
    "DUSt3R fine-tuned on RealEstate10K": (0.23, 9.17, 99.90, 54.17, 75.50, 1.83, 14.17, 93.63, 38.57, 64.40),
    "DUSt3R from scratch on RealEstate10K": (0.32, 20.66, 99.70, 15.33, 47.47, 6.25, 39.37, 65.84, 3.41, 19.73),
}
_DECIMALS_1 = {"fid": 2, "fvd": 2, "met3r_self": 4}  # as printed there
_CAPTIONS, _FRAMES, _SIDE = 180, 16, 256  # of the paper
_CLIPS = {"realestate10k": _CAPTIONS, "dl3dv": 70}
_LISTS = {"realestate10k": "realestate10k_test_180", "dl3dv": "dl3dv_70"}  # ours: the paper does not say which clips it took


class _Notes:
    """Differences between protocols, a letter each."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, name: str, notes: Sequence[str]) -> str:
        """The row's name with the letters of what differs."""
        letters = [self.letters.setdefault(note, chr(ord("a") + len(self.letters))) for note in notes]
        return f"{name} ({', '.join(letters)})" if letters else name


def paper_tables(folders: Sequence[str | Path]) -> dict[str, Any]:
    """The paper's numbers and those of runs, in the paper's columns.

    Args:
        folders: that `jog3r evaluate` wrote.

    Returns:
        `table_1` (text to video) and `table_2` (video to cameras): rows of figures by name, the paper's first; `notes`: by letter
        what differs in rows that carry it; `not_shown`: by folder which results have no column, and why.

    Raises:
        ValueError: no folder, one without results, or one folder twice.
    """
    if not folders:
        raise ValueError("tables takes folders that `jog3r evaluate` wrote, got none")
    if len(set(map(Path, folders))) < len(folders):
        raise ValueError(f"tables takes each folder once, got {', '.join(map(str, folders))}")
    notes, not_shown = _Notes(), {}
    names = [path.name for path in map(Path, folders)]
    table_1: dict[str, dict[str, Any]] = {f"paper: {name}": _printed(_DECIMALS_1, row) for name, row in TABLE_1.items()}
    table_2: dict[str, dict[str, Any]] = {
        f"paper: {name}": _printed(dict.fromkeys(TABLE_2_COLUMNS, 2), row) for name, row in TABLE_2.items()
    }
    for folder in map(Path, folders):
        results = _read(folder)
        run = folder.name if names.count(folder.name) == 1 else str(folder)
        if "t2vc" in results:
            name = notes.mark(run, _notes_of_videos(results["t2vc"]))
            table_1[name] = _video_row(results["t2vc"])
        if "v2c" in results:
            data = _data(results["v2c"]["settings"])
            if data is None:
                not_shown[str(folder)] = f"v2c of {results['v2c']['settings'].get('source')}: neither RealEstate10K nor DL3DV"
                continue
            for method, figures in results["v2c"]["first"].items():
                remarks = _notes_of_cameras(results["v2c"]["settings"], data)
                row = {f"{data} {key}": from_json(figures[key]) for key in _POSES}
                marked = notes.mark(run if method == "model" else method, remarks)
                if any(table_2.get(marked, row).get(key, value) != value for key, value in row.items()):
                    marked = notes.mark(f"{method}, clips of {run}", remarks)  # a baseline of other clips
                table_2.setdefault(marked, {}).update(row)
        if not {"t2vc", "v2c"} & set(results):
            not_shown[str(folder)] = "neither v2c nor t2vc"
    return {
        "table_1": table_1,
        "table_2": table_2,
        "notes": {letter: note for note, letter in notes.letters.items()},
        "not_shown": not_shown,
    }


def tables_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Report of what `paper_tables` returns."""
    parts: list[Block] = [
        Heading(1, "The paper's tables"),
        f"Rows of the paper as printed there; other rows are of the runs named. {INTERVALS} {SCATTER} "
        "Letters: where protocols differ. Only rows without letters are of one protocol, "
        "and the paper leaves open which clips and pairs of frames it took.",
        Heading(2, "Table 1: text to video"),
        Table(result["table_1"], TABLE_1_COLUMNS, "model"),
        Heading(2, "Table 2: video to cameras, pairs (first frame, frame f)"),
        Table(result["table_2"], TABLE_2_COLUMNS, "model"),
    ]
    if result["notes"]:
        parts.append("\n".join(f"- {letter}: {note}" for letter, note in result["notes"].items()))
    if result["not_shown"]:
        parts.append("Not shown: " + "; ".join(f"{folder} ({why})" for folder, why in result["not_shown"].items()))
    return parts


def _printed(decimals: Mapping[str, int], row: Sequence[float]) -> dict[str, Any]:
    """A row of the paper by column, with as many digits as there."""
    return {name: Printed(value, digits) for (name, digits), value in zip(decimals.items(), row, strict=True)}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no results.json: give a folder that `jog3r evaluate` wrote")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for task in ("v2c", "t2vc"):
            if task in found and "settings" not in found[task]:
                raise ValueError(f"{task} has no settings")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no result of `jog3r evaluate` ({error}); start the evaluation again") from error
    return found


def _data(settings: Mapping[str, Any]) -> str | None:
    """Which of the paper's data sets a run is of."""
    if settings.get("source") == "realestate10k":
        return "realestate10k"
    return "dl3dv" if str(settings.get("clip_list", "")).startswith("dl3dv") else None


def _video_row(result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for network, rows in result["distributions"].items():
        name = "fid" if network.startswith("Inception") else "fvd" if network.startswith("I3D") else None
        if not rows:  # fewer than two clips had features
            continue
        if name is not None:
            row[name] = from_json(rows["Fréchet"]["distance"])
        if name == "fid":
            row["kid"] = from_json(rows["kernel (KID)"]["distance"])
    row["met3r_self"] = from_json(result["consistency"]["generated, geometry of T2V+C"].get("met3r_self"))
    judged = result.get("judge", {}).get("rows", {}).get("generated", {})
    return row | ({"placed %": from_json(judged["placed %"])} if "placed %" in judged else {})


def _notes_of_videos(result: Mapping[str, Any]) -> list[str]:
    """What differs from table 1's protocol: 180 captions of RealEstate10K's test split, 16 frames, DINO features."""
    settings = result["settings"]
    data = "realestate10k" if settings.get("source") == "realestate10k" else None
    notes = _common_notes(settings, data)
    notes += [] if data is None else _notes_of_list(settings, data)
    if settings["N"] != _CAPTIONS:
        notes.append(f"{settings['N']} captions (paper: {_CAPTIONS})")
    if "videos a caption" in settings:
        notes.append(f"{settings['videos a caption']} videos a caption (paper: 1)")
    if not str(settings["features"]).lower().startswith(("vit", "dino")):
        notes.append(f"MEt3R on {settings['features']} (paper: DINO)")
    notes.append("real clips went through the VAE before FID and FVD (the paper does not say)")
    return notes


def _notes_of_cameras(settings: Mapping[str, Any], data: str) -> list[str]:
    """What differs from table 2's protocol."""
    notes = _common_notes(settings, data)
    if settings["N"] != _CLIPS[data]:
        notes.append(f"{settings['N']} clips (paper: {_CLIPS[data]})")
    notes += _notes_of_list(settings, data)
    if settings.get("left out"):
        notes.append(f"{settings['left out']} listed videos are missing")
    return notes


def _notes_of_list(settings: Mapping[str, Any], data: str) -> list[str]:
    """Whether the clips are those of the list that comes with the package: rows of different clips are not compared."""
    listed = settings.get("clip_list")
    if listed is None:
        return ["clips chosen by their order, not by a list"]
    digest = settings.get("clip_list_sha256")
    if listed == _LISTS[data] and digest in (None, ClipList(_LISTS[data]).sha256):
        return []
    return [f"clips of the list {listed}{'' if digest is None else f', sha256 {digest[:8]}'} (of the package: {_LISTS[data]})"]


def _common_notes(settings: Mapping[str, Any], data: str | None) -> list[str]:
    size = settings.get("size") or []
    notes = [] if data is not None else [f"other data: {settings.get('source')}"]
    frames = settings.get("frames", size[0] if len(size) == 3 else None)
    if frames != _FRAMES:
        notes.append(f"{frames} frames (paper: {_FRAMES})")
    sides = list(size)[-2:] if not isinstance(size, str) else size
    if sides != [_SIDE, _SIDE]:
        shown = sides if isinstance(sides, str) else " x ".join(map(str, sides))
        notes.append(f"frames of {shown} pixels (paper: {_SIDE} x {_SIDE})")
    if settings.get("resize_mode", "stretch") != "stretch" and not isinstance(size, str):
        notes.append("frames cropped (paper: stretched)")
    if "V2C" in settings:
        notes.append(f"{settings['V2C']} of each video read (paper: once)")
    if others := [name for name in settings if name.startswith("registration ")]:
        notes.append(", ".join(f"{name}: {settings[name]}" for name in others))
    if "videos" in settings:
        notes.append(f"several windows of a video ({settings['videos']} videos)")
    return notes
