"""Hostile inputs to `register_pointmaps`: each must end in a finite (or flagged) result or in a clear ValueError.

    python benchmarks/fuzz_registration.py --cases 2000

Counts the outcomes and exits with an error at the first silent NaN, crash of another kind, or case over the time limit.
"""

import argparse
import time
from collections import Counter

import torch
from registration_scenes import make_scene
from torch import Tensor

from jog3r import Registration, register_pointmaps

TIME_LIMIT_S = 20.0  # of processor time, which other programs on the machine do not lengthen
PATHS = ("lateral", "orbit", "dolly", "handheld", "still", "turn")


def hostile_case(index: int) -> tuple[list, dict]:
    """Arguments and keywords of case `index`, the same on every machine: a small scene spoilt in one to three ways."""
    rng = torch.Generator().manual_seed(index)

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=rng))

    height, width = ((24, 24), (16, 40), (33, 17), (8, 8), (1, 1), (1, 30), (2, 3))[min(draw(10), 6)]
    scene = make_scene(
        seed=index,
        height=height,
        width=width,
        num_frames=2 + draw(5),
        path=PATHS[draw(len(PATHS))],
        graph=("star", "chain", "window")[draw(3)],
        flat=draw(6) == 0,
        noise=(0.0, 0.01, 0.1, 0.5)[draw(4)],
    )
    arguments = list(scene.inputs)
    for _ in range(draw(4)):
        SPOILERS[draw(len(SPOILERS))](arguments, rng)
    return arguments, _keywords(draw, arguments)


def _keywords(draw, arguments: list) -> dict:
    frames = arguments[5] if isinstance(arguments[5], int) and arguments[5] > 0 else 1
    choices: list[dict] = [
        *[{}] * 12,
        {"shared_focal": False},
        {"focal_px": 30.0},
        {"focal_px": [0.0, -5.0, float("nan"), 1e12, 1e-12][draw(5)]},
        {"focal_px": torch.full((frames,), 25.0)},
        {"intrinsics": torch.tensor([[30.0, 0, 12], [0, 20, 9], [0, 0, 1]])},
        {"intrinsics": torch.zeros(3, 3)},
        {"known_poses": torch.eye(4).expand(frames, 4, 4)},
        {"known_poses": torch.full((frames, 4, 4), float("nan"))},
        {"smoothness": None, "smoothness_translation": 1e6, "smoothness_focal": 1e6},
        {"smoothness_focal": -1.0},
        {"max_iterations": draw(3)},
        {"chunk_pairs": draw(3)},
        {"method": "reference", "max_iterations": 3},
        {"method": "other"},
    ]
    return choices[draw(len(choices))]


def _some(shape: torch.Size, share: float, rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng) < share


def _put(slot: int, value: float, share: float):
    """A spoiler that overwrites a share of one argument's entries."""

    def spoil(arguments: list, rng: torch.Generator) -> None:
        if isinstance(arguments[slot], Tensor) and arguments[slot].is_floating_point():
            arguments[slot] = torch.where(_some(arguments[slot].shape, share, rng), torch.tensor(value), arguments[slot])

    return spoil


def _scale(slot: int, factor: float):
    def spoil(arguments: list, _: torch.Generator) -> None:
        if isinstance(arguments[slot], Tensor) and arguments[slot].is_floating_point():
            arguments[slot] = arguments[slot] * factor

    return spoil


def _one_pair(slot: int, value: float):
    """A spoiler that overwrites one pair's map."""

    def spoil(arguments: list, rng: torch.Generator) -> None:
        if isinstance(arguments[slot], Tensor) and arguments[slot].is_floating_point() and len(arguments[slot]):
            arguments[slot] = arguments[slot].clone()
            arguments[slot][int(torch.randint(len(arguments[slot]), (1,), generator=rng))] = value

    return spoil


def _reshape(slot: int):
    def spoil(arguments: list, _: torch.Generator) -> None:
        if isinstance(arguments[slot], Tensor):
            arguments[slot] = arguments[slot][:-1]

    return spoil


def _replace(slot: int, make):
    def spoil(arguments: list, rng: torch.Generator) -> None:
        arguments[slot] = make(arguments[slot], rng)

    return spoil


def _noise_only(value: object, rng: torch.Generator) -> object:
    return torch.randn(value.shape, generator=rng) if isinstance(value, Tensor) and value.is_floating_point() else value


def _mirrored(value: object, _: torch.Generator) -> object:
    return -value if isinstance(value, Tensor) and value.is_floating_point() else value


NAN, INF = float("nan"), float("inf")
SPOILERS = (
    *(_put(slot, value, share) for slot in range(4) for value in (NAN, INF, -INF, 0.0) for share in (0.1, 0.9)),
    *(_put(slot, value, 1.0) for slot in range(4) for value in (NAN, 0.0, 1.0)),
    *(_scale(slot, factor) for slot in range(4) for factor in (1e-20, 1e-6, 1e6, 1e20, 1e37)),
    *(_one_pair(slot, value) for slot in range(4) for value in (NAN, 0.0, 1.0)),
    *(_reshape(slot) for slot in range(5)),
    *(_replace(slot, _noise_only) for slot in range(3)),
    *(_replace(slot, _mirrored) for slot in range(4)),
    _put(1, -0.5, 0.02),
    _put(3, 0.5, 0.7),
    _put(3, 1e30, 0.05),
    _put(2, 1e12, 0.3),
    _replace(4, lambda value, _: value.flip(1) if isinstance(value, Tensor) else value),
    _replace(4, lambda value, _: value * 0 if isinstance(value, Tensor) else value),
    _replace(4, lambda value, _: value.float() if isinstance(value, Tensor) else value),
    _replace(4, lambda value, _: value - 1 if isinstance(value, Tensor) else value),
    _replace(5, lambda value, _: value + 3 if isinstance(value, int) else value),
    _replace(5, lambda _, __: 0),
    _replace(0, lambda value, _: value.double() if isinstance(value, Tensor) else value),
)


def check_result(result: Registration) -> str:
    """Why the result is unacceptable, or ""."""
    for name in ("poses", "intrinsics", "depth", "pointmaps", "confidence", "pair_scale"):
        if not bool(torch.isfinite(getattr(result, name)).all()):
            return f"{name} is not finite"
    if result.energy != result.energy or abs(result.energy) == INF:
        return f"energy is {result.energy}"
    if not bool(torch.allclose(result.poses[0], torch.eye(4), atol=1e-6)):
        return "the first pose is not the identity"
    rotation = result.poses[:, :3, :3].double()
    if float((rotation @ rotation.transpose(1, 2) - torch.eye(3)).abs().max()) > 1e-4:
        return "a rotation is none"
    if bool((result.intrinsics[:, [0, 1], [0, 1]] <= 0).any()):
        return "a focal length is not positive"
    return ""


def run_case(index: int) -> str:
    """The outcome of a case: "sound", "flagged", or the kind of refusal; anything else raises."""
    arguments, keywords = hostile_case(index)
    start = time.process_time()
    try:
        result = register_pointmaps(*arguments, **keywords)
    except (ValueError, TypeError) as error:
        if len(str(error)) < 15:
            raise RuntimeError(f"case {index}: the refusal says nothing: {error!r}") from error
        return f"refused ({type(error).__name__})"
    seconds = time.process_time() - start
    problem = check_result(result)
    if problem:
        raise RuntimeError(f"case {index} ({keywords}): {problem}")
    if seconds > TIME_LIMIT_S:
        raise RuntimeError(f"case {index} took {seconds:.0f} s")
    return "flagged" if any(result.degenerate) else "sound"


def main() -> None:
    """Run the cases and print how many ended how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()
    for index in range(options.first, options.first + options.cases):
        outcomes[run_case(index)] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome:24s} {count:6d}")
    print(f"{sum(outcomes.values())} cases in {time.perf_counter() - start:.0f} s, none crashed, hung or returned NaN")


if __name__ == "__main__":
    main()
