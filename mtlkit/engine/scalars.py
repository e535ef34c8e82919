"""The figures of a step for the log."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from mtlkit.step import Step


def scalars_of(step: Step) -> dict[str, float]:
    """Returns a step's losses, weights, gradients and extras, under the keys of `metrics.jsonl`."""
    found = {f"loss/{name}": loss for name, loss in step.raw_losses.items()}
    if step.weights is not None:
        found |= {f"weight/{t}": w for t, w in zip(step.tasks, step.weights.tolist(), strict=True)}
    # Read from `found`, not from `step.gram`: the log takes what is known already and costs no backward pass.
    if "gram" in step.found and step.finite:
        found |= gradient_scalars(step.tasks, step.found["gram"], step.found.get("products"))
    return found | {f"balancer/{name}": float(value) for name, value in step.extras.items()}


def mean_scalars(steps: Sequence[Step]) -> dict[str, float]:
    """Returns each figure's mean over the micro-batches of an optimizer step that have it."""
    # A task may be absent from some micro-batches. A zero in its place would pull the mean down.
    found = [scalars_of(step) for step in steps]
    keys = dict.fromkeys(key for scalars in found for key in scalars)
    return {key: fmean(scalars[key] for scalars in found if key in scalars) for key in keys}


def gradient_scalars(tasks: Sequence[str], gram: Tensor, products: Tensor | None) -> dict[str, float]:
    """Returns lengths and cosines of the task gradients, under the keys of `metrics.jsonl`.

    Args:
        gram: (k, k) inner products of the task gradients.
        products: (k + 1,) inner products of the balancer's own gradient with those of the tasks and with itself.

    >>> found = gradient_scalars(("a", "b"), torch.tensor([[4.0, 3.0], [3.0, 9.0]]), None)
    >>> found["grad_norm/a"], found["cosine/a/b"]
    (2.0, 0.5)
    """
    # A zero gradient has no cosine. Dividing by `tiny` in its place gives 0, where 0 / 0 would put NaN into the log.
    tiny = torch.finfo(gram.dtype).tiny
    norms = gram.diagonal().clamp_min(0).sqrt()
    found = {f"grad_norm/{t}": n for t, n in zip(tasks, norms.tolist(), strict=True)}
    scaled = norms.clamp_min(tiny)
    cosines = (gram / scaled / scaled[:, None]).tolist()  # one wait for the device, not one per pair
    for (i, a), (j, b) in combinations(enumerate(tasks), 2):
        found[f"cosine/{a}/{b}"] = cosines[i][j]
    if products is not None:
        length = products[-1].clamp_min(0).sqrt()
        alignment = products[:-1] / length.clamp_min(tiny) / scaled
        found |= {f"direction/{t}": c for t, c in zip(tasks, alignment.tolist(), strict=True)}
        found["direction_norm"] = float(length)
    return found
