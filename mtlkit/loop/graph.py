"""What a loss was made of: its graph says which features and which parameters it depends on.

A training loop does not tell which parameters belong to which head. The graph of a loss knows: from the loss back to
the features that its task was given, it passes exactly the parameters of that task's head.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Place = tuple[Any, int]  # a node of the graph, and the number of one of its outputs

#: Nodes that stand for many: every output depends on every input, and a look from outside cannot tell more.
COMPILED, CHECKPOINT = "CompiledFunctionBackward", "CheckpointFunctionBackward"
#: Nodes whose outputs each come from the input in the same place: DDP hands all outputs of a model through the first,
#: and `mtlkit.channels.transform_all` the features of all tasks through the second.
ONE_BY_ONE = ("_DDPSinkBackward", "AdaptersBackward")


@dataclass
class Found:
    """What lies behind a tensor.

    Attributes:
        stops: the names of the places that were met; nothing behind them was looked at.
        leaves: the tensors that would get a gradient, by `id`.
        hiding: the names of the nodes that were met and hide what is inside them.
    """

    stops: set[str] = field(default_factory=set)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    hiding: set[str] = field(default_factory=set)


def place_of(tensor: Tensor) -> Place:
    """Returns where a tensor leaves the graph; for a leaf, the tensor itself stands for its node.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> place_of(x) == (id(x), 0), place_of((2 * x).unbind()[1])[1]
    (True, 1)
    """
    return (id(tensor) if tensor.grad_fn is None else tensor.grad_fn, tensor.output_nr)


def behind(tensors: Iterable[Tensor], stops: Mapping[Place, str]) -> Found:
    """Looks at everything that the tensors were made of, as far as the places in `stops`.

    >>> import torch
    >>> w, z = (torch.ones(2, requires_grad=True) for _ in range(2))
    >>> features = 2 * z
    >>> found = behind([(w * features).sum()], {place_of(features): "features"})
    >>> found.stops, list(found.leaves) == [id(w)]
    ({'features'}, True)
    """
    found = Found()
    waiting = [place_of(tensor) for tensor in tensors if tensor.requires_grad]
    found.leaves |= {id(tensor): tensor for tensor in tensors if tensor.requires_grad and tensor.grad_fn is None}
    seen: set[Place] = set()
    while waiting:
        place = waiting.pop()
        node, number = place
        if place in stops:
            found.stops.add(stops[place])
            continue
        if isinstance(node, int) or node is None:
            continue
        # Of all other nodes, every output leads to every input.
        name = node.name()
        key: Place = place if name in ONE_BY_ONE else (node, -1)
        if key in seen:
            continue
        seen.add(key)
        if hasattr(node, "variable"):
            leaf = node.variable
            if (id(leaf), 0) in stops:
                found.stops.add(stops[id(leaf), 0])
            else:
                found.leaves[id(leaf)] = leaf
            continue
        if name in (COMPILED, CHECKPOINT):
            found.hiding.add(name)
        following = node.next_functions
        waiting += [following[number]] if name in ONE_BY_ONE else following
    return found
