"""Pre-training of the text encoder: right answers, padding that does not count, and an encoder that learns to bind words."""

from pathlib import Path

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data.procedural.scene_grammar import SceneWords, scene_words
from jog3r.evaluation.caption_checks import parse_caption
from jog3r.training.tiny_model.train_text_encoder import (
    ABSENT,
    QUESTIONS,
    CaptionReader,
    TextEncoderConfig,
    main,
    measure,
    read_captions,
    train,
    true_answers,
)


def answers(words: SceneWords) -> dict[str, str]:
    picked = zip(QUESTIONS.items(), true_answers(words), strict=True)
    return {question: options[number] for (question, options), number in picked}


def test_answers_of_a_known_scene() -> None:
    caption = "a room with blue walls and a red tiled floor, with a green couch and a white lamp, the camera pans left"
    words = SceneWords("blue", "red", "tiled", (("green", "sofa"), ("white", "lamp")), "turns left", caption)
    found = answers(words)
    assert [found[key] for key in ("walls", "floor", "floor pattern", "motion")] == ["blue", "red", "tiled", "turns left"]
    assert (found["colour of the sofa"], found["colour of the lamp"], found["what is green"]) == ("green", "white", "sofa")
    assert found["colour of the bed"] == found["what is red"] == found["what is blue"] == ABSENT


def test_a_pattern_that_the_caption_leaves_out_is_absent() -> None:
    words = SceneWords("blue", "red", "tiled", (("green", "sofa"),), "turns left", "a room with blue walls and a red floor")
    assert answers(words)["floor pattern"] == ABSENT


def test_answers_agree_with_what_the_caption_says() -> None:
    for index in range(200):
        words = scene_words(index, "validation")
        found, said = answers(words), parse_caption(words.caption)
        assert (found["walls"], found["floor"], found["motion"]) == (said["wall_colour"], said["floor_colour"], said["motion"])
        assert {(found[f"what is {colour}"], colour) for colour, _ in said["objects"]} == {(k, c) for c, k in said["objects"]}


def test_padding_does_not_reach_the_answers() -> None:
    reader = CaptionReader(16, 4)
    embeddings, mask = torch.randn(2, 6, 16), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    other = embeddings.clone()
    other[0, 4:] = 100.0
    for first, second in zip(reader(embeddings, mask), reader(other, mask), strict=True):
        torch.testing.assert_close(first, second)


def test_an_encoder_learns_which_colour_belongs_to_which_noun(tmp_path: Path) -> None:
    pipeline = Jog3rPipeline.from_pretrained(tiny_checkpoint)
    pipeline.text_encoder.init_weights()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    config = TextEncoderConfig("unused", "unused", num_steps=2, batch_size=32)
    before, _ = measure(pipeline, train(config, pipeline, tmp_path / "first"), count=200)
    config = TextEncoderConfig("unused", "unused", num_steps=100, batch_size=32)
    reader = train(config, pipeline, tmp_path / "second")
    after, _ = measure(pipeline, reader, count=200)
    ids, mask, truth = read_captions(pipeline, 0, 200, "validation")
    with torch.no_grad():
        walls = reader(pipeline.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)[0].argmax(1)
    assert after > before + 0.05
    assert (walls == truth[:, 0]).float().mean() > 0.3  # one in eight by chance, two in five from the colours named alone


def test_the_script_writes_a_pipeline_with_another_text_encoder_only(tmp_path) -> None:
    out = tmp_path / "text"
    options = ["--num_steps", "3", "--batch_size", "4", "--num_threads", "1"]
    main(["--init_from", str(tiny_checkpoint), "--output_dir", str(out), *options])
    old, new = Jog3rPipeline.from_pretrained(tiny_checkpoint), Jog3rPipeline.from_pretrained(out)
    changed = {
        name: any(
            not torch.equal(value, getattr(new, name).state_dict()[key]) for key, value in getattr(old, name).state_dict().items()
        )
        for name in ("text_encoder", "transformer", "pointmap_head", "vae")
    }
    assert changed == {"text_encoder": True, "transformer": False, "pointmap_head": False, "vae": False}
