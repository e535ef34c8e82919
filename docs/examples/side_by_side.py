"""The same step with mtlkit, TorchJD and the official RotoGrad package, and how many backward passes each one needs.

pip install "torchjd[full]==0.18.0" rotograd==0.1.6 geotorch==0.3.0
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import mtlkit

TASKS = ("a", "b", "c")


class Counted(nn.Sequential):
    """Counts the gradients that are carried back through it, as far as its first layer."""

    count = 0

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self):
            x = layer(x)
            if number == 0 and x.requires_grad:
                x.register_hook(self.add)
        return x

    def add(self, _: Tensor) -> None:
        self.count += 1


class Problem:
    """An encoder, three heads, and one batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = Counted(nn.Linear(6, 8), nn.Tanh())
        self.head = {name: Counted(nn.Linear(8, 1)) for name in TASKS}
        self.loss_of = nn.MSELoss()
        self.image = torch.randn(16, 6)
        self.target = {name: torch.randn(16, 1) for name in TASKS}
        self.optimizer = torch.optim.SGD(nn.ModuleList([self.encoder, *self.head.values()]).parameters(), lr=0.1)


def with_mtlkit(p: Problem, method: str, **options: Any) -> None:
    balanced = mtlkit.Balanced(method, tasks=TASKS, encoder=p.encoder, **options)
    balanced.follow(p.optimizer)
    # each step:
    z = balanced(p.encoder(p.image))
    losses = {name: p.loss_of(p.head[name](z[name]), p.target[name]) for name in TASKS}
    balanced.loss(losses).backward()
    p.optimizer.step()
    p.optimizer.zero_grad()


def with_torchjd(p: Problem) -> None:
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = UPGrad()
    # each step:
    z = p.encoder(p.image)
    losses = [p.loss_of(p.head[name](z), p.target[name]) for name in TASKS]
    mtl_backward(losses, features=z, parallel_chunk_size=1)  # one by one, so that they can be counted
    jac_to_grad(p.encoder.parameters(), aggregator)
    p.optimizer.step()
    p.optimizer.zero_grad()


def with_rotograd(p: Problem) -> None:
    import rotograd

    model = rotograd.RotoGrad(p.encoder, [p.head[name] for name in TASKS], 8)
    rotations = torch.optim.Adam(model.parameters(), lr=1e-3)
    # each step:
    with rotograd.cached():
        outputs = model(p.image)
        losses = [p.loss_of(output, p.target[name]) for output, name in zip(outputs, TASKS, strict=True)]
        model.backward(losses)
        p.optimizer.step()
        p.optimizer.zero_grad()
        rotations.step()
        rotations.zero_grad()


def counted(step: Callable[[Problem], None]) -> tuple[int, int, int]:
    """Returns how many gradients a step carries through the encoder and the heads, and its calls of autograd."""
    problem = Problem()
    backward, grad = torch.autograd.backward, torch.autograd.grad
    with patch("torch.autograd.backward", wraps=backward) as first, patch("torch.autograd.grad", wraps=grad) as second:
        step(problem)
    heads = sum(problem.head[name].count for name in TASKS)
    return problem.encoder.count, heads, first.call_count + second.call_count


WAYS: dict[str, tuple[str, Callable[[Problem], None]]] = {
    "mtlkit, `rotograd`": ("mtlkit", lambda p: with_mtlkit(p, "rotograd", features=8)),
    "mtlkit, `upgrad` at the features": ("mtlkit", lambda p: with_mtlkit(p, "upgrad")),
    "mtlkit, `upgrad` over the parameters": ("mtlkit", lambda p: with_mtlkit(p, "upgrad", space="parameters")),
    "TorchJD, `UPGrad` by `mtl_backward`": ("torchjd", with_torchjd),
    "rotograd, `RotoGrad`": ("rotograd", with_rotograd),
}

if __name__ == "__main__":
    print("| way | through the encoder | through the three heads | calls of autograd |\n|---|---|---|---|")
    for name, (package, step) in WAYS.items():
        if find_spec(package):
            print("|", " | ".join([name, *map(str, counted(step))]), "|")
        else:
            print(f"| {name} | {package} is not installed | | |")
