"""What the balancing adds to a step on many GPUs, on paper: bytes and number of collectives against the interconnect.

The bytes are formulas. `tests/test_counts.py` compares them with those that `tools/count_work.py` counts on two real
processes.
"""

import math
from dataclasses import dataclass

FLOAT, DOUBLE = 4, 8  # bytes of a number


@dataclass(frozen=True)
class Net:
    """An interconnect: bytes per second that a GPU sends, and the seconds until the first byte arrives."""

    name: str
    bandwidth: float
    latency: float


#: Examples. 400 Gb/s and 10 Gb/s per GPU.
NETS = (Net("fast (50 GB/s, 5 µs)", 50e9, 5e-6), Net("slow (1.25 GB/s, 30 µs)", 1.25e9, 30e-6))


@dataclass(frozen=True)
class Sizes:
    """A model on paper: tasks, channels of the features, and what its encoder has.

    Attributes:
        tensors: the number of the encoder's parameters (weights, biases), with `parameters` numbers in all.
        fan_in: the numbers that one output of the last layer depends on; the layer has `fan_in` x `channels` weights.
        rows: the samples of a process times the positions of its features.
        seconds: what a step computes on one GPU; two thirds of it are the backward pass.
    """

    tasks: int
    channels: int
    parameters: int
    tensors: int
    fan_in: int
    rows: int
    seconds: float = 0.1


#: A ResNet-50: 23.5 million parameters in 161 tensors, 2048 channels; its last convolution has 512 x 2048. 32 pictures
#: of 224 x 224 per GPU.
RESNET50 = Sizes(40, 2048, 23_500_000, 161, 512, 32 * 49)


def all_reduce(size: float, processes: int, net: Net) -> float:
    """Returns the seconds of one sum over processes, by a ring or by a tree, whichever is faster.

    With p processes, S bytes, bandwidth b and latency a:

    - ring: 2 (p - 1) / p S / b + 2 (p - 1) a. Every process sends each byte about twice, in 2 (p - 1) messages.
    - tree: 2 S / b + 2 log2(p) a, with the logarithm rounded up: up the tree and down again, in pieces.

    Libraries such as NCCL choose likewise: a tree for few bytes, a ring for many.

    >>> net = Net("example", bandwidth=1e9, latency=1e-5)
    >>> [round(1e3 * all_reduce(1e9, p, net), 2) for p in (1, 2, 8)]  # ms: the ring
    [0.0, 1000.02, 1750.14]
    >>> round(1e3 * all_reduce(1e3, 512, net), 3)  # the tree: 18 messages in a row, and the bytes hardly count
    0.182
    """
    if processes == 1:
        return 0.0
    ring = 2 * (processes - 1) / processes * size / net.bandwidth + 2 * (processes - 1) * net.latency
    tree = 2 * size / net.bandwidth + 2 * math.ceil(math.log2(processes)) * net.latency
    return min(ring, tree)


@dataclass(frozen=True)
class Sums:
    """The sums over processes of one step: one entry for each collective, in bytes."""

    parts: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return sum(self.parts)

    def seconds(self, processes: int, net: Net) -> float:
        return sum(all_reduce(part, processes, net) for part in self.parts)


def sums_of(name: str, space: str, s: Sizes, processes: int = 8) -> Sums:
    """Returns what each process sends for a method in its space, besides DDP's own sum of gradients.

    All methods add up the losses and counts: one sum of 2K numbers (float64).

    - methods of losses: nothing else; one sum of K numbers (float64) for weights that are learned;
    - Gram methods at the features: the K x K products of the gradients (float64). The gradients themselves stay where
      they are: each process has those of its own samples;
    - `parameters` and `last_layer`: each process has a part of every task's gradient, so all K gradients are added up.
      For a layer with less input than weights, its inputs and output gradients are gathered in place of that. A small
      table says whether all processes can do so;
    - `rotograd`: two more numbers beside the losses, the K x K products, and a d x d matrix per task from which its
      rotation learns.

    Raises `LookupError` for a method that is not on the page.

    >>> [sums_of("mgda", space, RESNET50).bytes // 1000 for space in ("features", "parameters")]  # kB
    [13, 3760001]
    """
    k, c, f = s.tasks, s.channels, s.fan_in
    losses, gram, learned = (2 * k * DOUBLE,), (k * k * DOUBLE,), (k * DOUBLE,)
    table: tuple[int, ...] = (2 * DOUBLE,)
    every = s.rows * processes
    if every * (f + k * c) <= k * c * f:  # the same question as `Layer.pays` asks
        last = (*table, (1 + k) * DOUBLE, s.rows * f * FLOAT, s.rows * k * c * FLOAT, *gram)
    else:
        last = (*table, k * c * f * FLOAT)
    known = {
        ("uniform", "features"): losses,
        ("uncertainty", "features"): losses + learned,
        ("mgda", "features"): losses + gram,
        ("upgrad", "features"): losses + gram,
        ("rotograd", "features"): (2 * (k + 1) * DOUBLE, *gram, k * c**2 * FLOAT),
        ("gradnorm", "last_layer"): (*losses, *last, *learned),
        ("cosreg", "last_layer"): (*losses, *last),
        ("mgda", "parameters"): (*losses, (1 + s.tensors) * DOUBLE, k * s.parameters * FLOAT),
    }
    if (name, space) not in known:
        names = ", ".join(f"{one} ({place})" for one, place in known)
        raise LookupError(f"{name} ({space}) is not on the page of growth; it has {names}.")
    return Sums(known[name, space])
