"""Compares the losses of eight steps by every balancer, bit for bit, for changes of code that must change no number.

    python tools/loss_curves.py --write before.json      # before the change
    python tools/loss_curves.py --compare before.json    # after it: exits with 1 and names what differs

It trains two tasks in float64 in one process, in every space of the method, with and without accumulation. In some
steps a label is missing. The last entry of a curve is a digest of the model's weights. Both runs must be made on one
machine: other processors add in other orders.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

from mtlkit import BALANCERS
from mtlkit.testing.toys import Method, make_batch, make_engine

STEPS = 8
ABSENT: dict[int, tuple[str, ...]] = {3: ("a",), 5: ("b",)}  # step -> tasks without labels


def curve(name: str, space: str, accumulation: int) -> list[str]:
    """Returns each step's losses as hexadecimal numbers, and a digest of the weights at the end."""
    cls = BALANCERS.get(name)
    options = {"space": space} if len(cls.spaces) > 1 else {}
    engine = make_engine(Method(name, options), ("a", "b"), accumulation=accumulation)
    found = []
    for number in range(STEPS * accumulation):
        step = engine.train_step(make_batch(number, ABSENT.get(number, ())))
        found.append(" ".join(f"{task} {loss.hex()}" for task, loss in step.raw_losses.items()))
    digest = hashlib.sha256()
    for _, weight in sorted(engine.network.state_dict().items()):
        digest.update(weight.contiguous().numpy().tobytes())
    return [*found, digest.hexdigest()]


def curves() -> dict[str, list[str]]:
    found = {}
    for name in BALANCERS.names():
        for space in BALANCERS.get(name).spaces:
            for accumulation in (1, 2):
                found[f"{name}, {space}, accumulation {accumulation}"] = curve(name, space, accumulation)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE", help="keeps the curves in this file")
    what.add_argument("--compare", type=Path, metavar="FILE", help="compares with the curves in this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = curves()
    if args.write:
        args.write.write_text(json.dumps(found, indent=1) + "\n")
        return
    before = json.loads(args.compare.read_text())
    differ = sorted(key for key in before.keys() | found.keys() if before.get(key) != found.get(key))
    sys.stdout.write(f"{len(found) - len(differ)} of {len(found)} curves are the same to the last bit" + "\n")
    for key in differ:
        sys.stdout.write(f"differs: {key}" + "\n")
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    main()
