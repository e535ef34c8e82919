"""Gram matrices of gradients over parameters, without the gradients of the large weights.

A linear layer computes Z = X W^T from its input X (N, F) to its output Z (N, C), in N samples and positions. A
convolution does so, too, if X has the patches that its kernel sees. Task k has the gradient D_k (N, C) at Z, so its
gradient over W is D_k^T X, with C F numbers. Their inner products do not need it:

    <D_i^T X, D_j^T X> = <D_i, (X X^T) D_j>.

For K tasks this takes N^2 (F + K C) + K^2 N C multiplications, in place of K N C F for the gradients and K^2 C F for
their products. So it pays where N is much smaller than F. `Layer.pays` compares the two counts. Elsewhere, and for all
other parameters, autograd computes the gradients themselves.

Which layers the formula covers is read from autograd's graph (`EncoderGraph`): exactly one node reads the weight, and
it is a plain convolution or matrix product whose input is at hand. So a weight that is used twice, or that is computed
from others, or that compiled code reads, takes the other way.

All processes have the same parameters, so their gradients are summed before they are compared. With the rows of
process r, the inner products are sum_rs <D_i^r, (X^r X^s^T) D_j^s>: each process gathers the rows of all, multiplies
its own with them, and the results are summed.
"""

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn import functional as F

from mtlkit.engine.encoder_graph import EncoderGraph
from mtlkit.gradients import at_least_float32, largest
from mtlkit.sample_group import SampleGroup


class Layer:
    """A linear or convolutional layer in autograd's graph, with unfolded inputs (N, F) and outputs (N, C).

    Attributes:
        edge: its output, where the gradients D_k are taken.
        rows: N, the number of its samples and positions; for several processes, of the one with most.
    """

    def __init__(self, node: Any, weight: Tensor) -> None:
        self._node = node
        self.edge = GradientEdge(node, 0)
        self.convolution = _is_convolution(node)
        x = self._kept_input
        if self.convolution:
            self._kernel = weight.shape[2:]
            self.width, self.channels = prod(weight.shape[1:]), weight.shape[0]
            settings = (node._saved_padding, node._saved_stride, node._saved_dilation)
            self._output = [
                (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
                for side, kernel, padding, stride, dilation in zip(x.shape[2:], self._kernel, *settings, strict=True)
            ]
            self.rows = len(x) * prod(self._output)
            # With a stride of 1, products of positions serve for all pairs of patches that have them.
            self._by_position = tuple(node._saved_stride) == (1, 1)
            self._positions = x.numel() // x.shape[1]
        else:
            self.rows, self.width = x.shape
            self.channels = weight.numel() // self.width
            self._by_position = False

    @property
    def _kept_input(self) -> Tensor:
        found: Tensor = getattr(self._node, _INPUTS[self._node.name()][1])
        return found

    def pays(self, k: int, processes: int) -> bool:
        """Whether the formula takes fewer multiplications than the gradients, and sends no more numbers."""
        f, c, every = self.width, self.channels, self.rows * processes
        return self.cost(k, processes) < self.plain_cost(k) and (processes == 1 or every * (f + k * c) <= k * c * f)

    def cost(self, k: int, processes: int) -> int:
        """The multiplications of the formula."""
        n, every = self.rows, self.rows * processes
        kernel = n * every * self.width
        if processes == 1 and self._by_position:
            # An addition moves memory, which takes as long as some thirty multiplications in a matrix product.
            kernel = self._positions**2 * self._kept_input.shape[1] + 30 * prod(self._kernel) * n**2
        return kernel + k * n * every * self.channels + k * k * n * self.channels

    def plain_cost(self, k: int) -> int:
        """The multiplications of k gradients over the weight and their inner products."""
        return k * self.rows * self.channels * self.width + k * k * self.channels * self.width

    def input(self) -> Tensor:
        """Returns what the layer was called with."""
        return at_least_float32(self._kept_input)

    def kernel(self, x: Tensor, samples: SampleGroup) -> Tensor:
        """Returns X X^T for inputs x: the rows of this process by those of all, which are constants in it."""
        if samples.size == 1 and self._by_position:
            return self._from_positions(x)
        if self.convolution:
            node = self._node
            x = F.unfold(x, self._kernel, node._saved_dilation, node._saved_padding, node._saved_stride)
            x = x.transpose(1, 2).reshape(-1, self.width)
        x = F.pad(x, (0, 0, 0, self.rows - len(x)))
        return x @ samples.join(x).T

    def _from_positions(self, x: Tensor) -> Tensor:
        """Adds up the products of positions that lie at the same place in two patches."""
        b, (height, width) = len(x), x.shape[2:]
        at = x.permute(0, 2, 3, 1).reshape(self._positions, -1)
        products = (at @ at.detach().T).view(b, height, width, b, height, width)
        total = x.new_zeros(b, *self._output, b, *self._output)
        for place in itertools.product(*(range(kernel) for kernel in self._kernel)):
            mine, theirs = [slice(None)], [slice(None)]
            for axis, side in enumerate((height, width)):
                shift = place[axis] * self._node._saved_dilation[axis] - self._node._saved_padding[axis]
                start, end = max(0, -shift), min(self._output[axis], side - shift)
                mine.append(slice(start, max(start, end)))
                theirs.append(slice(start + shift, max(start, end) + shift))
            total[(*mine, *mine)] += products[(*theirs, *theirs)]
        return total.view(self.rows, self.rows)

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Returns the gradient at the output as (N, C)."""
        return (gradient.flatten(2).transpose(1, 2) if self.convolution else gradient).reshape(-1, self.channels)


#: By the name of a node: the place of the weight among its inputs, and the name of the input X that it kept.
_INPUTS = {
    "ConvolutionBackward0": (1, "_saved_input"),
    "AddmmBackward0": (2, "_saved_mat1"),
    "MmBackward0": (1, "_saved_self"),
}


def _is_convolution(node: Node) -> bool:
    return node.name() == "ConvolutionBackward0"


def layer_of(graph: EncoderGraph, number: int, weight: Tensor) -> Layer | None:
    """Returns the layer whose weight is the parameter of that number, or None: the formula does not cover it."""
    found = graph.reader(number)
    # A hook of the weight may change its gradient, which the formula never sees.
    if found is None or weight._backward_hooks:
        return None
    node: Any = found[0]
    place = found[1]
    if node.name() not in _INPUTS or place != _INPUTS[node.name()][0]:
        return None
    if _is_convolution(node):
        if node._saved_transposed or node._saved_groups != 1 or weight.dim() != 4:
            return None
    elif weight.dim() != 2 or getattr(node, "_saved_alpha", 1) != 1:
        return None
    # With activation checkpointing, the input is not there: it would be computed again, once for each layer.
    kept = getattr(node, _INPUTS[node.name()][1].replace("_saved", "_raw_saved"))
    return Layer(node, weight) if getattr(kept, "unpack_hook", kept) is None else None


def covered(graph: EncoderGraph, parameters: Sequence[Tensor], samples: SampleGroup) -> tuple[dict[int, Layer], bool]:
    """Returns the layers that the formula covers, by the number of their weight, and whether all processes agree.

    They do not where their graphs differ, as with layers that only some processes ran. Then there are none.
    """
    found = {i: layer_of(graph, i, weight) for i, weight in enumerate(parameters)}
    agree = True
    if samples.size > 1:  # the only numbers of this module that the host reads
        mine = [graph.fingerprint, *(0 if layer is None else layer.rows for layer in found.values())]
        table = samples.join(torch.tensor([mine], device=parameters[0].device)).tolist()
        agree = all(row[0] == table[0][0] for row in table)
        for i, layer in found.items():
            rows = [row[1 + i] for row in table]
            found[i] = layer if agree and min(rows) > 0 else None
            if layer is not None:
                layer.rows = max(rows)
    return {i: layer for i, layer in found.items() if layer is not None}, agree


def products_of(layer: Layer, gradients: Tensor, samples: SampleGroup) -> tuple[Tensor, Tensor]:
    """Returns the inner products (k, k) over all processes, and a tensor with their derivative, both in float64.

    `gradients` are D (N, k, C), which this function overwrites; its rows go up to `layer.rows`. The second result has
    the derivative of the first by X and D of this process. The values of others are constants in it.
    """
    x = layer.input()
    # Float32 does not hold the squares of all its numbers. Powers of two change only exponents.
    top = torch.cat([largest(x.detach()).view(1), largest(gradients.detach(), (0, 2))]).double()
    sizes = torch.exp2(samples.join(top[None]).amax(0).log2().floor().clamp(-126, 126))
    kernel = layer.kernel(x * (1 / sizes[0]).to(x.dtype), samples)
    d = gradients.mul_((1 / sizes[1:]).to(gradients.dtype)[:, None])
    carried = (kernel @ samples.join(d).flatten(1)).view_as(d)
    # One K x K matrix for each row, and their sum in float64.
    part = torch.bmm(d, carried.transpose(1, 2)).sum(0, dtype=torch.float64)
    part = part * sizes[0] ** 2 * sizes[1:, None] * sizes[1:]
    total = samples.sum(part)
    # By symmetry, what this process has is in the first factor as often as in the second.
    return (total + total.T) / 2, part + part.T
