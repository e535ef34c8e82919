"""One of several processes: Gram matrices over parameters, against plain gradients of all parts of the batch.

python tests/gram_worker.py FILE: writes the largest relative errors of this process to FILE.RANK, by case.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn

from mtlkit.engine.layer_gram import Layer
from mtlkit.engine.parameter_gram import gram_over, gram_with_graph
from mtlkit.sample_group import SampleGroup

SIZES = (3, 2)  # samples of the processes
K = 3


class Net(nn.Module):
    """Two convolutions and a linear layer; `skip` leaves one out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.LayerNorm(5)
        self.mix = nn.Linear(5, 4)

    def forward(self, x, skip=False):
        fine = torch.tanh(self.stem(x))
        deep = self.norm(torch.tanh(self.second(fine)).movedim(1, -1))
        return [fine, deep[..., :4] if skip else torch.tanh(self.mix(deep))]


def part(rank):
    """Returns a process's images, and how its losses weigh the features."""
    g = torch.Generator().manual_seed(rank)
    image = torch.randn(SIZES[rank], 2, 8, 8, generator=g, dtype=torch.float64)
    shapes = [(SIZES[rank], 4, 4, 4), (SIZES[rank], 4, 4, 4)]
    return image, [[torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes] for _ in range(K)]


def losses(net, rank, skip=False):
    image, rows = part(rank)
    levels = net(image, skip)
    return [sum((z.square() * g).sum() for z, g in zip(levels, row, strict=True)) for row in rows]


def jacobian(net, parameters, skips, create_graph=False):
    """Returns the plain gradients, (K, P), of the sums over all parts of the batch."""
    parts = [losses(net, rank, skip) for rank, skip in enumerate(skips)]
    rows = []
    for own in zip(*parts, strict=True):
        found = torch.autograd.grad(sum(own), parameters, create_graph=create_graph, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def main(file):
    distributed.init_process_group("gloo")
    rank, samples, found = distributed.get_rank(), SampleGroup(), {}
    for pays in (True, False):
        Layer.pays = lambda *_, pays=pays: pays
        for skips in ((False, False), (False, True)):
            torch.manual_seed(0)
            net = Net().double()
            parameters = list(net.parameters())
            image, weights = part(rank)
            levels = net(image, skips[rank])
            rows = [[2 * z.detach() * g for z, g in zip(levels, row, strict=True)] for row in weights]
            expected = jacobian(net, parameters, skips)
            gram = gram_over(levels, rows, parameters, samples)
            found[f"pays={pays} skips={skips}"] = error(gram, expected @ expected.T)

        # The penalty's derivative of each process; DDP takes their mean. The losses carry the number of processes.
        weight, skips = net.second.weight, (False, False)
        penalty = torch.arange(9.0, dtype=torch.float64).view(3, 3).cos()
        gram = gram_with_graph([2 * loss for loss in losses(net, rank)], weight, samples)
        (penalty * gram).sum().backward()
        own = torch.cat([samples.sum(p.grad).flatten() / 2 for p in parameters if p.grad is not None])
        plain = jacobian(net, [weight], skips, create_graph=True)
        plain = plain @ plain.T
        exact = torch.autograd.grad((penalty * plain).sum(), parameters)
        found[f"pays={pays} graph"] = error(gram.detach(), plain.detach())
        found[f"pays={pays} derivative"] = error(own, torch.cat([g.flatten() for g in exact]))
    Path(f"{file}.{rank}").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads need not end in order
