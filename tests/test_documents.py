"""The documents keep their word: Python runs or compiles, links lead somewhere, prompts are ones that the tiny model knows."""

import argparse
import ast
import re
from pathlib import Path

import pytest

from jog3r.commands.parser import COMMANDS, build_parser
from jog3r.data.procedural.scene_grammar import FLOOR_PATTERNS, KINDS, MOTIONS, PALETTE, scene_words
from jog3r.evaluation.caption_checks import parse_caption

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "jog3r" / "tiny" / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), CARD])
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if "tiny_checkpoint" in path.read_text())
WITH_PROMPTS = [ROOT / "README.md", CARD, ROOT / "docs" / "command_line.md"]
WITH_PROMPTS += [ROOT / "pipelines" / "pipeline_jog3r.py", *(path for path in EXAMPLES if path.stem != "reconstruct")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python_blocks(path: Path) -> list[str]:
    return [text for language, text in FENCE.findall(path.read_text()) if language == "python"]


def options(command: str) -> set[str]:
    """Long options of a command, as underscores spell them."""
    (commands,) = (action for action in build_parser(command)._actions if isinstance(action, argparse._SubParsersAction))
    named = {option for action in commands.choices[command]._actions for option in action.option_strings}
    return {option for option in named if option.startswith("--") and "-" not in option[2:]} - {"--help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_python_compiles(path):
    for text in python_blocks(path):
        ast.parse(text)


def test_the_python_of_the_readme_runs_and_gives_the_shapes_it_states():
    (block,) = python_blocks(ROOT / "README.md")
    names, call = {}, "pipe(prompt, "
    assert call in block
    few_steps = block.replace(call, f"{call}num_inference_steps=4, reconstruction_timestep=300, ")
    exec(few_steps, names)  # noqa: S102  # our own text, which users run
    out, cameras = names["out"], names["cameras"]
    assert len(out.frames[0]) == 16 and out.poses[0].shape == (16, 4, 4) and out.intrinsics[0].shape == (16, 3, 3)
    assert out.pointmaps[0].shape == (16, 64, 64, 3) and cameras.poses[0].shape == (16, 4, 4)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files_and_headings(path):
    text = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text):
        address, _, heading = "".join(target).partition("#")
        if address.startswith("http"):
            continue
        file = path.parent / address if address else path
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text()), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}, target


@pytest.mark.parametrize("path", WITH_PROMPTS, ids=name)
def test_prompts_lie_within_the_grammar(path):
    """Every prompt has all parts of a caption, no word that no caption has, and no colour twice."""
    known = set(re.findall(r"\w+", " ".join(scene_words(index, "validation").caption for index in range(200))))
    quoted = re.findall(r"\"([^\"\n]+)\"|'([^'\n]+)'", path.read_text())
    prompts = [prompt for prompt in map("".join, quoted) if re.search(r"\ba room\b.*\bthe camera\b", prompt)]
    assert prompts
    for prompt in prompts:
        asked = parse_caption(prompt)
        colours = [asked["wall_colour"], asked["floor_colour"], *(colour for colour, _ in asked["objects"])]
        assert set(re.findall(r"\w+", prompt)) <= known and len(set(colours)) == len(colours), prompt


def test_the_card_names_every_word_of_the_grammar():
    (section,) = re.findall(r"^## Words it knows\n(.*?)^## ", CARD.read_text(), re.DOTALL | re.MULTILINE)
    words = {*KINDS, *FLOOR_PATTERNS, *(word for motion in MOTIONS for word in motion.split())}
    assert words | {colour for group in PALETTE.values() for colour in group} <= set(re.findall(r"\w+", section))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_command_line_names_the_options_that_there_are(command):
    text = (ROOT / "docs" / "command_line.md").read_text()
    (section,) = re.findall(rf"^## {command}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"--\w+", section))
    assert named - options(command) <= {"--verbose", "--dtype", "--offload"}
    if command != "prepare":  # of its many options the page has the most useful ones
        assert options(command) - named <= {"--verbose"}


def test_no_text_sends_anybody_to_a_package_index():
    """The package is on none: extras are installed from the checkout."""
    texts = [
        *DOCUMENTS,
        *(
            path
            for folder in ("geometry", "models", "data", "export", "pipelines", "training", "evaluation", "sfm", "space", "jog3r")
            for path in (ROOT / folder).rglob("*.py")
        ),
    ]
    assert not [name(path) for path in texts if re.search(r"pip install '?jog3r", path.read_text())]
