"""The loop of the tiny model's two preparations (VAE, text encoder): one process, one optimizer, no checkpoints."""

from collections.abc import Callable

import torch
from tqdm import tqdm


def minimise(
    loss_of_step: Callable[[int], tuple[torch.Tensor, dict[str, str]]],
    optimizer: torch.optim.Optimizer,
    rate_of_step: Callable[[int], float],
    num_steps: int,
    name: str,
) -> None:
    """Take `num_steps` steps; the weights are changed in place.

    Args:
        loss_of_step: of a step's number, the loss (a scalar) and what else the progress bar shows beside it.
        optimizer: over all that is trained; gradients are clipped to norm 1.
        rate_of_step: factor on the optimizer's learning rates.
        num_steps: length of the run.
        name: of the progress bar.

    Raises:
        RuntimeError: the loss is not finite.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_of_step)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with tqdm(range(num_steps), desc=name, unit="step") as bar:
        for step in bar:
            loss, shown = loss_of_step(step)
            if not torch.isfinite(loss):
                rate = optimizer.param_groups[0]["initial_lr"]
                raise RuntimeError(f"the loss became {loss.item()} at step {step}: lower learning_rate={rate}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}", **shown)
