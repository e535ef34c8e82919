"""What the log tells of a step's task gradients."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor


def gradient_scalars(tasks: Sequence[str], gram: Tensor, products: Tensor | None) -> dict[str, float]:
    """Lengths and cosines of the task gradients, under the keys of `metrics.jsonl`.

    Args:
        gram: (k, k) inner products.
        products: (k + 1,) those of a gradient that the balancer gave itself, with the tasks' ones and with itself.

    >>> found = gradient_scalars(("a", "b"), torch.tensor([[4.0, 3.0], [3.0, 9.0]]), None)
    >>> found["grad_norm/a"], found["cosine/a/b"]
    (2.0, 0.5)
    """
    tiny = torch.finfo(gram.dtype).tiny
    norms = gram.diagonal().clamp_min(0).sqrt()
    found = {f"grad_norm/{t}": n for t, n in zip(tasks, norms.tolist(), strict=True)}
    scaled = norms.clamp_min(tiny)
    cosines = (gram / scaled / scaled[:, None]).tolist()
    for (i, a), (j, b) in combinations(enumerate(tasks), 2):
        found[f"cosine/{a}/{b}"] = cosines[i][j]
    if products is not None:
        length = products[-1].clamp_min(0).sqrt()
        alignment = products[:-1] / length.clamp_min(tiny) / scaled
        found |= {f"direction/{t}": c for t, c in zip(tasks, alignment.tolist(), strict=True)}
        found["direction_norm"] = float(length)
    return found
