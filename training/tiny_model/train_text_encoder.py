"""Pre-train the tiny model's text encoder on procedural captions: its stand-in for the pre-training that OpenSora's T5 has had.

    python training/tiny_model/train_text_encoder.py --config training/recipes/tiny_text.yaml

Left to the diffusion loss alone, a fresh encoder learns very slowly which colour belongs to which noun: rooms then get the sofa's
colour on their walls. Here small readers ask the encoded caption what colour the walls, the floor and each kind of furniture
have, what is red, how the camera moves. A reader is as simple as a cross-attention layer of the transformer, so the answers
have to stand in the tokens' embeddings.
"""

import dataclasses
import logging
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from jog3r.data.files import replace_folder
from jog3r.data.option_checks import check_least
from jog3r.data.procedural.scene_grammar import FLOOR_PATTERNS, KINDS, MOTIONS, PALETTE, SceneWords, scene_words
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.config import load_config, one_line_errors
from jog3r.training.saving import save_without_paths
from jog3r.training.tiny_model.stages import KeptLoop, minimise, stage_folder

logger = logging.getLogger(__name__)

ABSENT = "absent"
QUESTIONS: dict[str, tuple[str, ...]] = {
    "walls": tuple(PALETTE["walls"]),
    "floor": tuple(PALETTE["floor"]),
    "floor pattern": (*FLOOR_PATTERNS, ABSENT),
    "motion": MOTIONS,
    **{f"colour of the {kind}": (*PALETTE["objects"], ABSENT) for kind in KINDS},
    **{f"what is {colour}": (*KINDS, ABSENT) for colour in PALETTE["objects"]},
}
"""Each question with its possible answers."""


@dataclasses.dataclass
class TextEncoderConfig:
    """Options of the text encoder's pre-training."""

    init_from: str  # pipeline folder whose text encoder is trained
    output_dir: str  # the same pipeline with the trained one
    num_steps: int = 800
    batch_size: int = 64
    learning_rate: float = 3e-3
    position_learning_rate: float = 0.1  # of the relative position bias
    warmup_steps: int = 30
    first_clip: int = 8_000_000  # captions first_clip, first_clip + 1, ... of the training split
    reader_heads: int = 4
    checkpoint_every: int = 100  # steps
    seed: int = 0
    num_threads: int = 2

    def __post_init__(self) -> None:
        check_least(self, {1: ("num_steps", "batch_size", "warmup_steps", "reader_heads", "checkpoint_every", "num_threads")})


class CaptionReader(nn.Module):
    """One learned query per question, one cross-attention layer over the caption, one linear layer per question."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(QUESTIONS), dim) * dim**-0.5)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.answers = nn.ModuleList([nn.Linear(dim, len(options)) for options in QUESTIONS.values()])

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """Embeddings (B, L, D) and mask (B, L), 1 where a token counts -> logits (B, A) per question."""
        queries = self.queries.expand(embeddings.shape[0], -1, -1)  # (B, Q, D)
        read, _ = self.attention(queries, embeddings, embeddings, key_padding_mask=mask == 0, need_weights=False)
        return [layer(read[:, number]) for number, layer in enumerate(self.answers)]


def true_answers(words: SceneWords) -> list[int]:
    """Index of the right answer of each question; what the caption does not say is absent."""
    colour_of = {kind: colour for colour, kind in words.objects}
    kind_of = dict(words.objects)
    answers = {
        "walls": words.wall_colour,
        "floor": words.floor_colour,
        "floor pattern": words.floor_pattern if words.floor_pattern in words.caption else ABSENT,
        "motion": words.motion,
        **{f"colour of the {kind}": colour_of.get(kind, ABSENT) for kind in KINDS},
        **{f"what is {colour}": kind_of.get(colour, ABSENT) for colour in PALETTE["objects"]},
    }
    return [options.index(answers[question]) for question, options in QUESTIONS.items()]


def read_captions(
    pipeline: Jog3rPipeline, first: int, count: int, split: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # (B, L), (B, L), (B, Q)
    """Token ids, mask and true answers of captions first ... first + count - 1."""
    words = [scene_words(index, split) for index in range(first, first + count)]
    length = pipeline.transformer.config.max_caption_length
    tokens = pipeline.tokenizer(
        [item.caption for item in words], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask, torch.tensor([true_answers(item) for item in words])


def build_optimizer(config: TextEncoderConfig, encoder: nn.Module, reader: nn.Module) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the relative position bias.

    A head that looks at the next word only needs biases of about 5. From their start near 0 the usual rate takes thousands of
    steps to get there, and until then no colour finds its noun.
    """
    named = [*encoder.named_parameters(), *reader.named_parameters()]
    bias = [parameter for name, parameter in named if "relative_attention_bias" in name]
    others = [parameter for name, parameter in named if "relative_attention_bias" not in name]
    groups = [{"params": others, "lr": config.learning_rate}, {"params": bias, "lr": config.position_learning_rate}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)


def train(config: TextEncoderConfig, pipeline: Jog3rPipeline, folder: Path) -> CaptionReader:
    """Run the loop, which keeps its state in `folder`; the text encoder's weights are changed in place. Returns the reader."""
    encoder = pipeline.text_encoder.float().train()
    encoder.requires_grad_(True)
    reader = CaptionReader(encoder.config.d_model, config.reader_heads)

    def rate_of_step(step: int) -> float:  # warm-up, then a linear fall to zero over the second half
        return min(1.0, (step + 1) / config.warmup_steps, 2 * (config.num_steps - step) / config.num_steps)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, str]]:
        first = config.first_clip + step * config.batch_size
        ids, mask, answers = read_captions(pipeline, first, config.batch_size, "train")
        logits = reader(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        return torch.stack([functional.cross_entropy(row, answers[:, k]) for k, row in enumerate(logits)]).mean(), {}

    kept = KeptLoop(folder, dataclasses.asdict(config), {"encoder": encoder, "reader": reader}, every=config.checkpoint_every)
    minimise(loss_of_step, build_optimizer(config, encoder, reader), rate_of_step, config.num_steps, "text encoder", kept)
    return reader


@torch.no_grad()
def measure(pipeline: Jog3rPipeline, reader: CaptionReader, count: int = 1000) -> tuple[float, float]:
    """Share of questions, and of captions with all questions, answered rightly on `count` validation captions."""
    encoder = pipeline.text_encoder.eval()
    ids, mask, answers = read_captions(pipeline, 0, count, "validation")
    logits = reader.eval()(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    right = torch.stack([row.argmax(1) for row in logits], dim=1) == answers  # (B, Q)
    return right.float().mean().item(), right.all(1).float().mean().item()


def main(arguments: list[str]) -> None:
    """Train and save."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        config = load_config(TextEncoderConfig, arguments)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.num_threads)
        start = time.monotonic()
        with stage_folder(config.output_dir) as folder:
            pipeline = Jog3rPipeline.from_pretrained(config.init_from)
            reader = train(config, pipeline, folder)
            questions, captions = measure(pipeline, reader)
            pipeline.tokenizer.backend_tokenizer.no_padding()  # it remembers how it was last called, and would save that
            pipeline.tokenizer.backend_tokenizer.no_truncation()
            replace_folder(config.output_dir, partial(save_without_paths, pipeline))
        minutes = (time.monotonic() - start) / 60
        logger.info(
            "%.2f %% of the questions, all questions of %.1f %% of 1,000 validation captions; %.1f minutes, saved to %s",
            100 * questions, 100 * captions, minutes, config.output_dir,
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
