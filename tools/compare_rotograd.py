"""Compares RotoGrad's gradients with those of its authors' package, at the same network, batches and rotations.

    pip install --target /tmp/rotograd --no-deps rotograd geotorch==0.3.0
    PYTHONPATH=/tmp/rotograd python tools/compare_rotograd.py

Nothing else needs the package. What differs by design, and is accounted for here:

- The package minimises sum_n |R_k v_n - g~_{n,k}|^2 with v = |mean_j G_j| mean_j(G_j / |G_j|). As a rotation leaves
  |R_k v_n| as it is, that is 2 |mean_j G_j| times the paper's L_rot^k, plus a constant: the same direction, another
  length.
- The package leaves the lower triangle of a skew matrix to an optimizer of the user's, as `balancer.update=adam` does
  with a whole matrix; `geodesic` takes the direction and sets the length itself.
- Its rotations start at the identity, ours at small random ones; it takes |G_k^0| anew at step 20, we at
  `balancer.burn_in`. C = sum_k alpha_k |G_k| is the same, and so is the encoder's gradient.
"""

import copy
import sys

import torch
from torch import Tensor, nn

from mtlkit import BALANCERS, TASKS, Encoder, EncoderInfo
from mtlkit.build import make_accelerator
from mtlkit.engine import Engine
from mtlkit.model import MultiTaskModel
from mtlkit.schema import TrainerConfig
from mtlkit.step import Step

NAMES, WIDTH, SAMPLES, STEPS = ("a", "b", "c"), 8, 16, 3


class Vectors(Encoder):
    """(B, 3, 2, 2) images -> vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.info = EncoderInfo(channels=(WIDTH,), strides=(0,))

    @property
    def last_layer(self) -> nn.Module:
        return self.layers[-1]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


def make_engine() -> Engine:
    tasks = [TASKS.build("multilabel", name, ("x", "y", "z"), decoder="linear") for name in NAMES]
    encoder = Vectors()
    model = MultiTaskModel(encoder, {task.name: task.decoder(encoder.info) for task in tasks})
    balancer = BALANCERS.build("rotograd", tasks=NAMES)
    balancer.setup({task.name: task for task in tasks}, encoder.info)
    config = TrainerConfig(max_steps=STEPS, precision="fp64")
    engine = Engine(model, tasks, balancer, config, accelerator=make_accelerator(config), steps_per_epoch=STEPS)
    for name in NAMES:  # far from the identity
        angles = torch.randn(WIDTH, WIDTH, dtype=torch.float64)
        balancer.rotation[name].data.copy_(torch.linalg.matrix_exp(angles - angles.T))
    return engine


class Head(nn.Module):
    """A decoder of ours as the package wants it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder([z])


def gradients_of(encoder: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> int:
    try:
        from rotograd import RotoGrad
    except ImportError as error:
        sys.stderr.write(f"{error}. The authors' package must be installed first:\n\n{__doc__}")
        return 2
    torch.manual_seed(0)
    engine = make_engine()
    network, balancer = engine.network, engine.balancer
    update = engine._update
    backbone = copy.deepcopy(network.encoder.layers)
    heads = [Head(copy.deepcopy(network.decoders[name])) for name in NAMES]
    package = RotoGrad(backbone, heads, WIDTH).double()  # it wraps each head, in place
    for number in range(STEPS):
        image = torch.rand(SAMPLES, 3, 2, 2, dtype=torch.float64)
        targets = {name: torch.randint(0, 2, (SAMPLES, 3)).double() for name in NAMES}
        backbone.load_state_dict(network.encoder.layers.state_dict())
        for i, name in enumerate(NAMES):
            heads[i][1].decoder.load_state_dict(network.decoders[name].state_dict())
            setattr(package, f"rotation_{i}", balancer.rotation[name].detach().clone())
        for parameter in [*package.mtl_parameters(), *package.model_parameters()]:
            parameter.grad = None
        package.train()
        outputs = zip(package(image), targets.values(), strict=True)
        package.backward([nn.functional.binary_cross_entropy_with_logits(*pair) for pair in outputs])

        seen: dict[str, Tensor] = {}

        def look(step: Step, seen: dict[str, Tensor] = seen) -> None:  # before anything moves
            seen["encoder"] = gradients_of(network.encoder)
            seen.update({name: pairs[0][0].T for name, pairs in balancer._noted.items()})  # M_k
            update(step)

        engine._update = look
        step = engine.train_step({"image": image, "targets": targets})
        differences = {"encoder": largest_difference(seen["encoder"], gradients_of(backbone))}
        mean = sum(package.original_grads) / len(NAMES)
        for i, name in enumerate(NAMES):
            lower = getattr(package.parametrizations, f"rotation_{i}").original.grad  # by the lower triangle
            expected = 2 * mean.norm() * step.norms[i] * (seen[name].T - seen[name])
            differences[f"rotation of {name}"] = largest_difference(lower - lower.T, expected)
        text = ", ".join(f"{what} {value:.1e}" for what, value in differences.items())
        sys.stdout.write(f"step {number}, relative differences: {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
