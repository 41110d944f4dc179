"""One optimizer step of the bundled model's hidden matrices: torch's Muon, one matrix after the other, against ours, by shapes.

    OMP_NUM_THREADS=2 python benchmarks/muon.py

Prints seconds a step of each, their ratio, and the largest difference of a weight after all steps.
"""

import argparse
import time
from collections import Counter

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.training.optimization import BatchedMuon, is_hidden_matrix


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="the first is not timed")
    options = parser.parse_args()
    pipe = Jog3rPipeline.from_pretrained(tiny_checkpoint())
    parts = (pipe.transformer, pipe.pointmap_head)
    matrices = [value.detach() for part in parts for name, value in part.named_parameters() if is_hidden_matrix(name, value)]
    print(
        f"{torch.get_num_threads()} threads;",
        ", ".join(f"{n} of {list(s)}" for s, n in Counter(m.shape for m in matrices).items()),
    )
    weights = [[torch.nn.Parameter(value.clone()) for value in matrices] for _ in range(2)]
    settings = {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = [kind(own, **settings) for kind, own in zip((torch.optim.Muon, BatchedMuon), weights, strict=True)]
    seconds = [0.0, 0.0]
    torch.manual_seed(0)
    for step in range(options.steps):
        for first, second in zip(*weights, strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        for number, optimizer in enumerate(optimizers):
            start = time.perf_counter()
            optimizer.step()
            seconds[number] += (time.perf_counter() - start) * (step > 0)
    mean = [total / (options.steps - 1) for total in seconds]
    difference = max((a - b).abs().max().item() for a, b in zip(*weights, strict=True))
    print(f"torch {mean[0]:.3f} s, by shapes {mean[1]:.3f} s, ratio {mean[0] / mean[1]:.2f}; largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
