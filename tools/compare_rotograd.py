"""Compares RotoGrad's gradients with those of its authors' package, at the same network, batches and rotations.

    pip install --target /tmp/rotograd --no-deps rotograd geotorch==0.3.0
    PYTHONPATH=/tmp/rotograd python tools/compare_rotograd.py

Nothing else needs the package. Some things differ by design, and this program takes them into account:

- The package minimises sum_n |R_k v_n - g~_{n,k}|^2 with v = |mean_j G_j| mean_j(G_j / |G_j|). A rotation does not
change |R_k v_n|, so this is 2 |mean_j G_j| times the paper's L_rot^k, plus a constant: the same direction with another
length. - The package leaves the numbers below the diagonal of a skew matrix to an optimizer of the user's, as
  `balancer.update=adam` does; `geodesic` takes the direction and sets the length itself. Adam's first step is compared:
  both move each number by lr. Later steps differ, because Adam's averages depend on the other length, which changes
  over time.

The same are: rotations that start anywhere (`balancer.start=random`), |G_k^0| taken again at step 20
(`balancer.burn_in`), C = sum_k alpha_k |G_k|, the encoder's gradient, and decoders with the plain gradients of their
losses (`normalize_losses=False`, the package's default).
"""

import copy
import sys

import torch
from torch import Tensor, nn

from mtlkit import BALANCERS, TASKS, Encoder, EncoderInfo
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Batch, Engine, Forward
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.one_pass import Pass
from mtlkit.rotations import nearest_rotation
from mtlkit.run.build import make_accelerator

NAMES, WIDTH, SAMPLES, STEPS, RATE = ("a", "b", "c"), 8, 16, 3, 5e-4
FORM, DIM = (2, 2, 2), 5  # of the map that is flattened, and how many of its numbers are rotated


class Vectors(Encoder):
    """Turns (B, 3, 2, 2) images into vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.info = EncoderInfo(channels=(WIDTH,), strides=(0,))

    @property
    def last_layer(self) -> nn.Module:
        return self.layers[-1]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


class Maps(Vectors):
    """(B, 3, 2, 2) images -> maps (B, 2, 2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.info = EncoderInfo(channels=(FORM[0],), strides=(1,))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image).unflatten(1, FORM)]


def make_engine(update: str = "geodesic", flatten: bool = False) -> Engine:
    tasks = [TASKS.build("multilabel", name, ("x", "y", "z"), decoder="linear") for name in NAMES]
    encoder = Maps() if flatten else Vectors()
    model = MultiTaskModel(encoder, {task.name: task.decoder(encoder.info) for task in tasks})
    options = {"flatten": True, "dim": DIM} if flatten else {}
    balancer = BALANCERS.build("rotograd", tasks=NAMES, update=update, start="random", lr=RATE, **options)
    balancer.setup({task.name: task for task in tasks}, encoder.info)
    config = TrainerConfig(max_steps=STEPS, precision="fp64")
    engine = Engine(model, tasks, balancer, config, accelerator=make_accelerator(config), steps_per_epoch=STEPS)
    for start in [*balancer.rotation.values(), *balancer.base.values()]:  # they were drawn, and rounded, in float32
        start.data.copy_(nearest_rotation(start.data))
    return engine


class Head(nn.Module):
    """One of our decoders in the form that the package needs."""

    def __init__(self, decoder: nn.Module, form: tuple[int, ...]) -> None:
        super().__init__()
        self.decoder = decoder
        self.form = form

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder([z.unflatten(1, self.form)])


def package_like(engine: Engine, package_class: type[nn.Module]) -> nn.Module:
    """The package's model with the same layers."""
    flatten = engine.balancer.flatten
    form, width = (FORM, DIM) if flatten else ((WIDTH,), WIDTH)
    heads = [Head(copy.deepcopy(engine.network.decoders[name]), form) for name in NAMES]
    return package_class(copy.deepcopy(engine.network.encoder.layers), heads, width).double()  # wraps each head


def take_over(package: nn.Module, engine: Engine) -> None:
    """Gives the package the engine's weights and rotations, and no gradients."""
    package.backbone.load_state_dict(engine.network.encoder.layers.state_dict())
    for i, name in enumerate(NAMES):
        package.heads[i][1].decoder.load_state_dict(engine.network.decoders[name].state_dict())
        setattr(package, f"rotation_{i}", engine.balancer.rotation[name].detach().clone())
    for parameter in [*package.mtl_parameters(), *package.model_parameters()]:
        parameter.grad = None


def make_batch() -> Batch:
    targets = {name: torch.randint(0, 2, (SAMPLES, 3)).double() for name in NAMES}
    return {"image": torch.rand(SAMPLES, 3, 2, 2, dtype=torch.float64), "targets": targets}


def backward(package: nn.Module, batch: Batch) -> None:
    """Runs the package's own backward pass, with the losses of the engine's tasks."""
    package.train()
    outputs = zip(package(batch["image"]), batch["targets"].values(), strict=True)
    package.backward([nn.functional.binary_cross_entropy_with_logits(*pair) for pair in outputs])


def gradients_of(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> int:
    try:
        from rotograd import RotoGrad
    except ImportError as error:
        sys.stderr.write(f"{error}. The authors' package must be installed first:\n\n{__doc__}")
        return 2
    for flatten in (False, True):
        kind = f"{FORM} maps, flattened, {DIM} of {WIDTH} numbers rotated" if flatten else f"vectors of {WIDTH}"
        sys.stdout.write(f"Features: {kind}\n")
        compare(RotoGrad, flatten)
    return 0


def compare(package_class: type[nn.Module], flatten: bool) -> None:
    """Prints the differences over some steps, and those of Adam's first step."""
    torch.manual_seed(0)
    engine = make_engine(flatten=flatten)
    network = engine.network
    update = engine._update
    package = package_like(engine, package_class)
    for number in range(STEPS):
        batch = make_batch()
        take_over(package, engine)
        backward(package, batch)

        seen: dict[str, Tensor] = {}

        def look(one: Pass, again: Forward, seen: dict[str, Tensor] = seen) -> None:  # before anything moves
            seen["encoder"] = gradients_of(network.encoder)
            seen.update({f"decoder of {name}": gradients_of(network.decoders[name]) for name in NAMES})
            seen.update({name: one.step.noted(name)[0][0].T for name in NAMES})  # M_k
            update(one, again)

        engine._update = look
        step = engine.train_step(batch)
        differences = {"encoder": largest_difference(seen["encoder"], gradients_of(package.backbone))}
        for i, name in enumerate(NAMES):
            head = gradients_of(package.heads[i][1])
            differences[f"decoder of {name}"] = largest_difference(seen[f"decoder of {name}"], head)
        mean = sum(package.original_grads) / len(NAMES)
        for i, name in enumerate(NAMES):
            lower = getattr(package.parametrizations, f"rotation_{i}").original.grad  # by the lower triangle
            expected = 2 * mean.norm() * step.norms[i] * (seen[name].T - seen[name])
            differences[f"rotation of {name}"] = largest_difference(lower - lower.T, expected)
        text = ", ".join(f"{what} {value:.1e}" for what, value in differences.items())
        sys.stdout.write(f"step {number}, relative differences: {text}\n")
    adam = difference_of_adam(package_class, flatten)
    sys.stdout.write(f"the rotations after Adam's first step, absolute difference: {adam:.1e}\n")


def difference_of_adam(package_class: type[nn.Module], flatten: bool) -> float:
    """Returns the difference of the rotations after one step of Adam on the skew matrix, here and in the package."""
    engine, batch = make_engine("adam", flatten), make_batch()
    package = package_like(engine, package_class)
    take_over(package, engine)
    optimizer = torch.optim.Adam(package.mtl_parameters(), lr=RATE, eps=1e-16)  # mtlkit's eps
    backward(package, batch)
    optimizer.step()
    engine.train_step(batch)
    pairs = [(engine.balancer.rotation[name], package.rotation[i]) for i, name in enumerate(NAMES)]
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


if __name__ == "__main__":
    sys.exit(main())
