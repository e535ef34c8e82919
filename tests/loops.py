"""A training loop as people write it, beside an engine of `toys.py` with the same network."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import mtlkit
from mtlkit.engine import optim


class Net(nn.Module):
    """Encoder, `Balanced` and heads in one module, as a loop has them: mtlkit's model is not used."""

    def __init__(self, encoder, balanced, heads):
        super().__init__()
        self.encoder, self.balanced, self.heads = encoder, balanced, heads

    def forward(self, image, names=None):
        shared = self.balanced(self.encoder(image))
        outputs = {}
        for name in shared if names is None else names:
            output = self.heads[name](shared[name])
            if output.dim() == 4:
                output = F.interpolate(output, size=image.shape[-2:], mode="bilinear", align_corners=False)
            outputs[name] = output
        return outputs


class Loop:
    """A plain loop with the start values of an engine.

    Args:
        engine: with the same balancer; it is not changed.
        options: those of the balancer.
        parts: an encoder and heads like the engine's, which get its start values. Without them, copies are made.
        shard: splits the encoder and the heads over processes; it gets the whole network.
        more: arguments of `mtlkit.Balanced`.
    """

    def __init__(self, engine, method, options=None, parts=None, tell_heads=False, shard=None, **more):
        self.tasks = engine.tasks
        own = engine.network.encoder, engine.network.decoders
        encoder, heads = parts or copy.deepcopy(own)
        for part, start in zip((encoder, heads), own, strict=True):
            part.load_state_dict(start.state_dict())
            part.zero_grad()
        kinds = {name: "regression" if task.regression else "classification" for name, task in self.tasks.items()}
        more = {"encoder": encoder, "steps_per_epoch": engine.steps_per_epoch} | more
        if tell_heads:
            more["heads"] = heads
        self.balanced = mtlkit.Balanced(method, tasks=kinds, **more, **(options or {}))
        self.balanced.to(torch.float64 if engine.config.precision == "fp64" else torch.float32)
        self.balanced.balancer.load_state_dict(engine.balancer.state_dict())
        self.net = Net(encoder, self.balanced, heads)
        self.dtype = next(self.net.parameters()).dtype
        if shard is not None:
            shard(self.net)
        self.optimizer = optim.model_optimizer(engine.network, engine.config).__class__(
            [
                {"params": list(encoder.parameters()), "lr": engine.config.lr},
                {"params": list(self.net.heads.parameters()), "lr": engine.config.lr},
            ],
            weight_decay=engine.config.weight_decay,
        )
        self.balanced.follow(self.optimizer)

    def targets(self, batch):
        return {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in batch["targets"].items()}

    def losses(self, batch, names=None, forward=None):
        """Returns outputs, and losses as pairs of sum and number."""
        outputs = (forward or self.net)(batch["image"].to(self.dtype), names)
        targets = self.targets(batch)
        return outputs, {name: self.tasks[name].loss(output, targets[name]) for name, output in outputs.items()}

    def extras(self, batch, outputs):
        """Returns what a method asks for besides the losses."""
        needs, targets = self.balanced.balancer.needs, self.targets(batch)
        found = {}
        if "indicators" in needs:
            every = {name: self.tasks[name].indicator(output, targets[name]) for name, output in outputs.items()}
            found["indicators"] = {name: value for name, value in every.items() if value is not None}
        if "second_forward" in needs:
            found["again"] = lambda: self.losses(batch)[1]
        return found

    def backward(self, batch, divide=1, names=None, backward=torch.Tensor.backward):
        outputs, losses = self.losses(batch, names)
        loss = self.balanced.loss(losses, **self.extras(batch, outputs))
        backward(loss / divide)
        return loss

    def step(self, *batches, **options):
        for batch in batches:
            self.backward(batch, divide=len(batches), **options)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self):
        """Returns all numbers that training changes."""
        found = {f"encoder.{name}": value for name, value in self.net.encoder.state_dict().items()}
        found |= {f"decoders.{name}": value for name, value in self.net.heads.state_dict().items()}
        return found | {f"balancer.{name}": value for name, value in self.balanced.balancer.state_dict().items()}


def engine_state(engine):
    """Returns the same numbers of an engine."""
    found = {name: value.clone() for name, value in engine.network.state_dict().items()}
    return found | {f"balancer.{name}": value.clone() for name, value in engine.balancer.state_dict().items()}
