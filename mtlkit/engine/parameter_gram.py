"""The Gram matrix of K tasks' gradients over parameters, stage by stage through the graph of the encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlkit.engine.encoder_graph import EncoderGraph, Stage
from mtlkit.engine.layer_gram import Layer, covered, products_of
from mtlkit.gradients import Row, at_least_float32, gradients_of, inner_products
from mtlkit.sample_group import SampleGroup, of_all_ranks


class Plan:
    """Which layers of the graph behind `levels` the formula covers and pays for, with k tasks.

    Every process must make it. Its `layers` are known by the number of their weight; `agree` says whether the graphs of
    all processes are alike.
    """

    def __init__(self, levels: Sequence[Tensor], parameters: Sequence[Tensor], k: int, samples: SampleGroup) -> None:
        self.graph = EncoderGraph(levels, parameters)
        found, self.agree = covered(self.graph, parameters, samples)
        self.layers = {i: layer for i, layer in found.items() if layer.pays(k, samples.size)}
        saved = sum(layer.plain_cost(k) - layer.cost(k, samples.size) for layer in self.layers.values())
        # Weights by the formula need one more backward pass for the weighted gradient. It costs about twice as much as
        # the weight gradients of one task. Half of that is enough to be saved, as K whole gradients take much memory.
        self.pays = saved > sum(layer.rows * layer.channels * layer.width for layer in found.values())


def gram_over(
    levels: Sequence[Tensor],
    rows: Sequence[Row],
    parameters: Sequence[Tensor],
    samples: SampleGroup,
    plan: Plan | None = None,
) -> Tensor:
    """Returns (k, k) float64: the inner products of the tasks' gradients over the parameters, summed over processes.

    `rows` are the gradients at the levels. They go backward stage by stage, all tasks through one stage before the next
    one, so that only the gradients of a stage are in memory. Every process must call it.
    """
    k = len(rows)
    plan = plan or Plan(levels, parameters, k, samples)
    graph, layers = plan.graph, plan.layers

    def size(number: int) -> int:  # of what is kept of a task's gradient until the stage is over
        layer = layers.get(number)
        return parameters[number].numel() if layer is None else layer.rows * layer.channels

    # What all tasks keep in a stage is about half as large as one gradient over all parameters.
    stages = graph.stages(size, limit=sum(parameter.numel() for parameter in parameters) // (2 * k))
    if not plan.agree:  # one stage with all parameters: every process has the same sums to make
        stages = [Stage(levels=list(range(len(levels))), parameters=list(range(len(parameters))))]
    total = torch.zeros(k, k, dtype=torch.float64, device=parameters[0].device)
    borders: list[Row] = [[] for _ in rows]
    for stage in stages:
        numbers = [i for i in stage.levels if i in graph.roots]
        outputs = [*stage.entries, *(graph.roots[i] for i in numbers)]
        kept = _Kept(stage, layers, parameters, k)
        for task, row in enumerate(rows):
            entering, borders[task] = [*borders[task], *(row[i] for i in numbers)], []  # frees those of the border
            found = _backward(outputs, entering, [*kept.inputs, *stage.exits])
            borders[task] = found[len(kept.inputs) :]
            kept.put(task, found)
        total += kept.products(samples)
    return total


class _Kept:
    """The gradients of all tasks in one stage: at the outputs of the layers that the formula covers, and of the rest.

    `inputs` are the edges and the parameters whose gradients `put` takes, in order.
    """

    def __init__(self, stage: Stage, layers: dict[int, Layer], parameters: Sequence[Tensor], k: int) -> None:
        numbers = sorted(stage.parameters)  # the same order on all processes
        self._layers = [layers[i] for i in numbers if i in layers]
        others = [parameters[i] for i in numbers if i not in layers]
        self.inputs: list[Any] = [*(layer.edge for layer in self._layers), *others]
        like = at_least_float32(parameters[0].detach())
        self._outputs = [like.new_empty(layer.rows, k, layer.channels) for layer in self._layers]
        whole = like.new_zeros(k, sum(parameter.numel() for parameter in others))
        self._plain = whole
        self._parts = whole.split([parameter.numel() for parameter in others], dim=1)

    def put(self, task: int, found: Row) -> None:
        n = len(self._layers)
        for layer, output, g in zip(self._layers, self._outputs, found, strict=False):
            rows = output[:0, task] if g is None else layer.as_rows(g)
            output[: len(rows), task] = rows
            output[len(rows) :, task] = 0.0
        for part, g in zip(self._parts, found[n:], strict=False):
            if g is not None:
                part[task] = g.flatten()

    def products(self, samples: SampleGroup) -> Tensor | float:
        """Returns their inner products over all processes, (k, k), and frees them."""
        total: Tensor | float = 0.0
        if self._parts:
            total = inner_products(samples.add(self._plain).unbind())
        for layer in self._layers:
            total = total + products_of(layer, self._outputs.pop(0), samples)[0]
        return total


def _backward(outputs: Sequence[Any], gradients: Row, inputs: Sequence[Any]) -> Row:
    """Carries gradients at some edges of the graph to others; None: nothing arrives there."""
    used = [i for i, g in enumerate(gradients) if g is not None]
    if not used or not inputs:
        return [None] * len(inputs)
    starts, cotangents = [outputs[i] for i in used], [gradients[i] for i in used]
    with torch.enable_grad():
        return list(torch.autograd.grad(starts, inputs, cotangents, retain_graph=True, allow_unused=True))


def gram_with_graph(means: Sequence[Tensor], weight: Tensor, samples: SampleGroup) -> Tensor:
    """Returns the (k, k) inner products of the losses' gradients over one weight, with a graph to differentiate them.

    `means` carry a factor: the number of processes. The derivative is that of this process's part, as DDP expects it.
    """
    size, layer = samples.size, Plan(means, [weight], len(means), samples).layers.get(0)
    if layer is None:
        local = torch.stack([at_least_float32(gradients_of(mean, [weight])[0].flatten()) for mean in means])
        # All processes share the parameters, so their gradients add up first.
        return inner_products(of_all_ranks(samples.sum(local) / size, local).unbind())
    found = [torch.autograd.grad(mean, [layer.edge], create_graph=True, allow_unused=True)[0] for mean in means]
    rows = [None if g is None else at_least_float32(layer.as_rows(g)) for g in found]
    zeros = next(row for row in rows if row is not None).detach().new_zeros(1).expand(layer.rows, layer.channels)
    stacked = torch.stack(
        [zeros if row is None else F.pad(row, (0, 0, 0, layer.rows - len(row))) for row in rows], dim=1
    )
    whole, mine = products_of(layer, stacked, samples)
    return of_all_ranks(whole / size**2, mine / size)
