"""The autograd graph between parameters and the features: who reads a parameter, and where the graph can be cut.

Autograd builds this graph in the forward pass. It has a node for each operation; an edge goes from a node to those that
made its inputs. The graph knows what no inspection of modules can tell: whether a parameter was used once, twice, or
through another tensor. Nothing is attached to the model, so nothing stays on it.
"""

import heapq
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

_ON_THE_WAY = ("ToCopyBackward0", "TBackward0")  # from a weight to its layer, under autocast and in `nn.Linear`
Edge = tuple[Node, int]  # a node and the number of one of its outputs in the forward pass


@dataclass
class Stage:
    """A part of the backward pass. Gradients enter it at a border and at levels, and leave it at the next border.

    `entries`, `exits`: the edges of both borders. `levels`, `parameters`: the numbers of those that lie in it.
    """

    entries: list[GradientEdge] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)
    exits: list[GradientEdge] = field(default_factory=list)


class EncoderGraph:
    """The nodes that lead from `levels` (or any other tensors) to `parameters`, in the order of a backward pass."""

    def __init__(self, levels: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        edges = {i: get_gradient_edge(level) for i, level in enumerate(levels) if level.requires_grad}
        self._nodes = [get_gradient_edge(parameter).node for parameter in parameters]
        self._leaves = {node: i for i, node in enumerate(self._nodes)}
        self.roots = edges
        self._needed = _leading_to([edge.node for edge in edges.values()], self._leaves)
        self._readers: dict[Node, list[tuple[Node, int]]] = {node: [] for node in self._needed}
        for node in self._needed:
            for place, (below, _) in enumerate(node.next_functions):
                if below in self._readers:
                    self._readers[below].append((node, place))
        # What the backward pass meets, in order: ("level", i), ("parameter", i), and ("border", edges) where all that
        # goes on goes through one node.
        self._events: list[tuple[str, int | list[Edge]]] = []
        self._walk()

    def reader(self, parameter: int) -> tuple[Node, int] | None:
        """Returns the one node that reads a parameter, and the place of the parameter among its inputs.

        The parameter may be cast or transposed on the way, as under autocast and in `nn.Linear`. None: there are
        several readers or none, or the parameter itself is one of the levels.
        """
        node = self._nodes[parameter]
        levels = {edge.node for edge in self.roots.values()}
        while True:
            readers = self._readers.get(node, [])
            if len(readers) != 1 or node in levels:
                return None
            reader, place = readers[0]
            if reader.name() not in _ON_THE_WAY:
                return reader, place
            node = reader

    @property
    def fingerprint(self) -> int:
        """A number that is equal where the processes' graphs have the same parameters, levels and borders, in order."""
        names = [(kind, len(what) if isinstance(what, list) else what) for kind, what in self._events]
        return zlib.crc32(repr(names).encode())

    def stages(self, size: Callable[[int], int], limit: int) -> list[Stage]:
        """Cuts the backward pass at borders. A stage ends when the sizes of its parameters reach the limit."""
        stages, filled = [Stage()], 0
        for kind, what in self._events:
            last = stages[-1]
            if isinstance(what, list):
                if filled >= limit:
                    last.exits = [GradientEdge(node, number) for node, number in what]
                    stages.append(Stage(entries=last.exits))
                    filled = 0
            elif kind == "level":
                last.levels.append(what)
            else:
                last.parameters.append(what)
                filled += size(what)
        return stages

    def _walk(self) -> None:
        waiting = {node: len(readers) for node, readers in self._readers.items()}
        starts: dict[Node, list[int]] = {}
        for i, edge in self.roots.items():
            starts.setdefault(edge.node, []).append(i)
        # The node that ran last in the forward pass comes first, as in autograd's own order.
        ready = [(-node._sequence_nr(), i, node) for i, node in enumerate(self._needed) if not waiting[node]]
        heapq.heapify(ready)
        open_edges: dict[Node, dict[int, None]] = {}  # edges from nodes that were met to those that were not
        count = len(ready)
        while ready:
            _, _, node = heapq.heappop(ready)
            open_edges.pop(node, None)
            self._events += [("level", i) for i in starts.get(node, [])]
            if node in self._leaves:
                self._events.append(("parameter", self._leaves[node]))
            for below, number in node.next_functions:
                if below in waiting:
                    open_edges.setdefault(below, {})[number] = None
                    waiting[below] -= 1
                    if not waiting[below]:
                        count += 1
                        heapq.heappush(ready, (-below._sequence_nr(), len(waiting) + count, below))
            if len(open_edges) == 1:
                ((only, numbers),) = open_edges.items()
                # No cut between a weight and its reader: both belong to one stage.
                if only not in self._leaves and only.name() not in _ON_THE_WAY:
                    self._events.append(("border", [(only, number) for number in numbers]))


def _leading_to(roots: Sequence[Node], leaves: dict[Node, int]) -> list[Node]:
    """Returns all nodes behind the roots that lead to a leaf."""
    leads: dict[Node, bool] = {}
    stack = [(root, False) for root in roots]
    while stack:  # no recursion: a network may be deeper than Python's stack
        node, done = stack.pop()
        below = [other for other, _ in node.next_functions if other is not None]
        if done:
            leads[node] = node in leaves or any(leads[other] for other in below)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack += [(other, False) for other in below]
    return [node for node, found in leads.items() if found]
