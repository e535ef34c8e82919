"""Multi-task training in one process, written as the methods are defined: one `autograd.grad` per task, no tap.

It is the reference for the engine on several processes, and has nothing of the engine's passes, spaces and losses.
"""

import torch
from torch import nn

from mtlkit.host import Seeds
from mtlkit.sample_group import SampleGroup
from mtlkit.seeding import Turn, Turns
from mtlkit.state import Kept
from mtlkit.step import Step, Window
from mtlkit.task_gradients import TaskGradients

CPU = torch.device("cpu")


class Alone(SampleGroup):
    """One process, also where several are started."""

    size = 1
    rank = 0


def flat(tensors, like):
    return torch.cat(
        [(torch.zeros_like(x) if t is None else t).reshape(-1) for t, x in zip(tensors, like, strict=True)]
    )


class Gradients(TaskGradients):
    """The task gradients of one micro-batch, each by a backward pass of its own."""

    def __init__(self, levels, rows, vectors, halves=None):
        self.levels, self.rows, self.vectors, self.halves = levels, rows, vectors, halves

    def gram(self):
        return self.vectors @ self.vectors.T

    def cross_gram(self):
        first, second = self.halves
        return 4 * first @ second.T

    def jacobian(self):
        return self.vectors

    def local_gradients(self):
        return self.rows

    def local_features(self):
        return [level.detach() for level in self.levels]

    def reaches(self, level):
        return any(row[level] is not None for row in self.rows)


class PlainLoop:
    """Trains copies of an engine's network and balancer.

    Args:
        network, balancer: with their start values; they are trained in place.
        tasks: by name.
        trainer: the engine's settings.
    """

    def __init__(self, network, balancer, tasks, trainer, seed=0):
        self.net, self.own, self.tasks, self.config = network, balancer, tasks, trainer
        groups = [{"params": list(p.parameters())} for p in (network.encoder, network.decoders)]
        self.optimizer = torch.optim.AdamW(groups, lr=trainer.lr, weight_decay=trainer.weight_decay)
        learned = [p for p in balancer.parameters() if p.requires_grad]
        self.own_optimizer = torch.optim.Adam(learned, lr=balancer.lr, eps=1e-16) if learned else None
        given = trainer.decoder_gradients
        self.weighted = (balancer.decoders if given == "published" else given) == "weighted"
        self.graph = "create_graph" in balancer.needs
        self.turns = Turns(seed)
        self.number = 0

    # -- one micro-batch ------------------------------------------------------------------------------------------

    def outputs(self, batch, features):
        with self.turns.hook(Turn.ADAPTER, CPU):
            adapted = {name: self.own.adapter(name, features[name]) for name in self.tasks}
        found = {}
        for name, decoder in self.net.decoders.items():
            output = decoder(adapted[name])
            if output.dim() == 4:
                size = batch["image"].shape[-2:]
                output = nn.functional.interpolate(output, size=size, mode="bilinear", align_corners=False)
            found[name] = output
        return found

    def means(self, batch, outputs):
        """Returns the mean losses of the tasks that have a label."""
        pairs = {name: task.loss(outputs[name], batch["targets"][name]) for name, task in self.tasks.items()}
        return {name: total / count for name, (total, count) in pairs.items() if count > 0}

    def micro_batch(self, batch, share, window):
        """Adds the gradients of one micro-batch, times its `share` of the optimizer step."""
        own, encoder = self.own, self.net.encoder
        step = Step(own, number=self.number, epoch=self.number // 10, rate=self.rate, window=window, samples=Alone())
        self.turns.next(self.number)
        self.turns.model(CPU)
        seed = torch.tensor(share, dtype=torch.float64)
        step.seeds = Seeds(seed, seed)
        window.seeds.append(step.seeds)
        levels = encoder(batch["image"])
        if self.graph:
            features = {name: [z.view_as(z) for z in levels] for name in self.tasks}
        else:
            features = {name: [z.detach().requires_grad_() for z in levels] for name in self.tasks}
        outputs = self.outputs(batch, features)
        means = self.means(batch, outputs)
        step.tasks = tuple(means)
        step.raw_losses = {name: float(mean.detach()) for name, mean in means.items()}
        window.tasks.update(means)
        if not means:
            return step, batch
        if "indicators" in own.needs:
            pairs = {n: t.indicator(outputs[n], batch["targets"][n]) for n, t in self.tasks.items() if n in means}
            values = [
                float(pairs[n][0].double() / pairs[n][1])
                if pairs[n] is not None
                else float(torch.exp(-means[n].detach()))
                for n in means
            ]
            step.found["indicators"] = torch.tensor(values, dtype=torch.float64)
        if self.graph:
            self.whole(step, means, features, levels, share)
        else:
            self.apart(step, means, features, levels, share)
        return step, batch

    def whole(self, step, means, features, levels, share):
        """The gradient of an objective that contains gradients."""
        step.losses = torch.stack(list(means.values()))
        vectors = []
        rows = []
        for name, mean in means.items():
            inputs = [self.net.encoder.last_layer.weight] if self.own.space == "last_layer" else features[name]
            found = torch.autograd.grad(mean, inputs, create_graph=True, allow_unused=True)
            vectors.append(flat(found, inputs))
            rows.append([torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)])
        step.gradients = Gradients(levels, rows, torch.stack(vectors))
        with self.turns.hook(Turn.OBJECTIVE, CPU):
            objective = self.own.objective(step)
        (share * objective).backward()

    def apart(self, step, means, features, levels, share):
        """The balancer's weights times the gradients of the tasks."""
        net, own = self.net, self.own
        step.losses = torch.tensor([float(m.detach()) for m in means.values()], dtype=torch.float64, requires_grad=True)
        with self.turns.hook(Turn.OBJECTIVE, CPU):
            objective = own.objective(step)
        learned = [p for p in own.parameters() if p.requires_grad]
        found = torch.autograd.grad(objective, [step.losses, *learned], allow_unused=True)
        step.coefficients = found[0]
        add(learned, found[1:], share)
        rows, of_decoders = [], {}
        for name, mean in means.items():
            decoder = list(net.decoders[name].parameters())
            got = torch.autograd.grad(mean, [*features[name], *decoder, *learned], allow_unused=True, retain_graph=True)
            n = len(features[name])
            rows.append(list(got[:n]))
            of_decoders[name] = (decoder, got[n : n + len(decoder)])
            add(learned, got[n + len(decoder) :], share)
        shared = list(net.encoder.parameters())

        def pulled(rows):
            vectors = []
            for row in rows:
                used = [i for i, g in enumerate(row) if g is not None]
                inputs = [net.encoder.last_layer.weight] if own.space == "last_layer" else shared
                got = torch.autograd.grad(
                    [levels[i] for i in used], inputs, [row[i] for i in used], retain_graph=True, allow_unused=True
                )
                vectors.append(flat(got, inputs))
            return torch.stack(vectors)

        halves = None
        vectors = torch.stack([flat(row, levels) for row in rows]) if own.space == "features" else pulled(rows)
        if "second_batch" in own.needs:
            odd = torch.arange(len(levels[0])) % 2
            halves = [
                pulled([[None if g is None else g * (odd == h).view(-1, 1, 1, 1) for g in row] for row in rows])
                for h in (0, 1)
            ]
        step.gradients = Gradients(levels, rows, vectors, halves)
        with torch.no_grad(), self.turns.hook(Turn.COMBINE, CPU):
            combined = own.combine(step)
        if isinstance(combined, torch.Tensor):
            step.weights = step.coefficients * combined
            total = [
                sum(w * g for w, g in zip(step.weights, level, strict=True) if g is not None)
                for level in zip(*rows, strict=True)
            ]
        elif own.space == "features":
            total = combined
        else:
            total = None
            parts = combined[0].split([p.numel() for p in shared])
            add(shared, [part.view_as(p) for part, p in zip(parts, shared, strict=True)], share)
        if total is not None:
            used = [i for i, g in enumerate(total) if isinstance(g, torch.Tensor)]
            got = torch.autograd.grad([levels[i] for i in used], shared, [total[i] for i in used], allow_unused=True)
            add(shared, got, share)
        weights = step.weights if step.decoder_weights is None else step.decoder_weights
        for k, (decoder, got) in enumerate(of_decoders.values()):
            factor = share * float(weights[k]) if self.weighted else share
            add(decoder, got, factor)
        step.losses = step.losses.detach()

    # -- one optimizer step ---------------------------------------------------------------------------------------

    @property
    def rate(self):
        return self.own.lr * self.own.lr_decay**self.number

    def step(self, batches):
        window = Window()
        losses = []
        for batch in batches:
            step, last = self.micro_batch(batch, 1 / len(batches), window)
            losses.append(step.raw_losses)
        if window.tasks:
            self.optimizer.step()
            self.move(step, last, window)
        self.optimizer.zero_grad()
        self.own.zero_grad()
        self.number += 1
        return losses

    def move(self, step, batch, window):
        own = self.own
        if "second_forward" in own.needs and step.tasks:
            with torch.no_grad():
                levels = self.net.encoder(batch["image"])
                means = self.means(batch, self.outputs(batch, dict.fromkeys(self.tasks, levels)))
            step.found["losses_after"] = torch.stack([means[name] for name in step.tasks])
        with self.turns.hook(Turn.AFTER_MODEL, CPU):
            own.after_model(step)
        for task in set(own.tasks) - window.tasks:
            for name, parameter in own.named_parameters():
                if task in name.split("."):
                    parameter.grad = None
        if self.own_optimizer is not None:
            for group in self.own_optimizer.param_groups:
                group["lr"] = step.rate
            self.own_optimizer.step()
        with torch.no_grad():
            self.settle(step)
        with self.turns.hook(Turn.AFTER_STEP, CPU):
            own.after_step(step)

    def settle(self, step):
        for part in self.own.modules():
            if isinstance(part, Kept):
                part.settle(step.noted(part))
        for state in self.own.parameters():
            if not state.requires_grad and state.grad is not None:
                state.add_(state.grad)


def add(parameters, gradients, factor):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            gradient = gradient * factor
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
