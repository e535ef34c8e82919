"""Trains the toy in every case and stores the results. It is started once in one process and once in two.

RANK=0 WORLD_SIZE=1 ... python tests/distributed_worker.py OUT.pt
"""

import importlib.util
import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from mtlkit import BALANCERS as registry  # noqa: N811

sys.path.insert(0, str(Path(__file__).parent))
from splits import by_parts

warnings.simplefilter("error")

STEPS = 10
VARIANTS = {
    "uniform": ("uniform", {}),
    "fixed": ("fixed", {"weights": {"depth": 3.0}}),
    "uncertainty": ("uncertainty", {}),
    "gradnorm_features": ("gradnorm", {"space": "features"}),
    "gradnorm_last_layer": ("gradnorm", {"space": "last_layer"}),
    "rotograd": ("rotograd", {"lr": 1e-2}),
    "cosreg_features": ("cosreg", {"space": "features", "alpha": 2.0}),
    "cosreg_last_layer": ("cosreg", {"space": "last_layer", "alpha": 2.0, "scale_by_loss": True}),
}
CASES = {
    "plain": {"ema": 0.5},
    "accumulation": {"accumulation": 2},
    "missing_on_a_rank": {"clip_encoder": 0.05},
    "missing_everywhere": {},
    "sharded": {"accumulation": 2, "clip_encoder": 0.05},
    "all_at_once": {"accumulation": 2},
    "weighted_decoders": {"decoder_gradients": "weighted", "clip_norm": 0.05, "accumulation": 2},
}


def every_balancer():
    """Returns every registered balancer in every space in which it works."""
    for name in registry.names():
        if name == "torchjd" and importlib.util.find_spec(name) is None:
            continue  # an optional package that is not installed
        spaces = registry.get(name).spaces
        if len(spaces) == 1:
            yield name, (name, {})
        else:
            yield from ((f"{name} in {space}", (name, {"space": space})) for space in spaces)


BALANCERS = dict(every_balancer()) | VARIANTS
APART = ("accumulation", "missing_on_a_rank", "missing_everywhere", "weighted_decoders")
SHARDED = ["cagrad in features", "gradnorm_features"]  # clipped; `test_sharded.py` has the rest
RUNS = [
    *itertools.product(BALANCERS, ("all_at_once",), ("fp64",)),  # in the same order on all processes
    *itertools.product(VARIANTS, ("plain",), ("fp64", "fp32")),
    *itertools.product(("uniform", "rotograd", "gradnorm_last_layer"), APART, ("fp64",)),
    *itertools.product(SHARDED, ("sharded",), ("fp64",)),
]


def batch_of(toys, case, number):
    """Returns batch `number` of 8 samples. Rows 4 to 7 belong to the second process."""
    batch = toys.make_batch(number)
    if case == "missing_on_a_rank" and number % 2:
        return toys.without(batch, "depth", slice(4, 8))
    if case == "all_at_once" and number % 2 and number != 5:  # rows 2, 3, 6 and 7 belong to the second process
        return toys.without(toys.without(batch, "depth", slice(2, 4)), "depth", slice(6, 8))
    if case in ("missing_everywhere", "all_at_once") and number in (0, 4, 5):
        batch = toys.without(batch, "depth")
        if number == 5:
            batch = toys.without(toys.without(batch, "segmentation"), "attributes")
    return batch


def share_of(batch, micro, accumulation, rank, world):
    """Returns this process's part of a micro-batch. The union over processes is the same for any number of them."""
    size = 8 // (accumulation * world)
    start = (micro * world + rank) * size
    rows = slice(start, start + size)
    return {"image": batch["image"][rows], "targets": {k: t[rows] for k, t in batch["targets"].items()}}


def run(toys, name, case, precision):
    from mtlkit import distributed
    from mtlkit.sample_group import SampleGroup

    balancer, options = BALANCERS[name]
    trainer = CASES[case]
    sharded = case == "sharded" and distributed.world_size() > 1
    engine = toys.make_engine(
        balancer,
        options=options,
        precision=precision,
        optimizer="adamw",
        shard=by_parts if sharded else None,
        **trainer,
    )
    assert all(isinstance(p, DTensor) for p in engine.network.parameters()) == sharded
    accumulation = trainer.get("accumulation", 1)
    losses, weights = [], []
    for number in range(3 if case == "sharded" else STEPS):
        batch = batch_of(toys, case, number)
        for micro in range(accumulation):
            share = share_of(batch, micro, accumulation, distributed.rank(), distributed.world_size())
            step = engine.train_step(share)
            losses.append(dict(step.raw_losses))
            weights.append({} if step.weights is None else dict(zip(step.tasks, step.weights.tolist(), strict=True)))
    state = {f"model.{k}": v.full_tensor() if sharded else v.clone() for k, v in engine.network.state_dict().items()}
    if "ema" in trainer:
        state |= {f"average.{k}": v.clone() for k, v in engine.averaged.model.state_dict().items()}
    state |= {f"balancer.{k}": v.clone() for k, v in engine.balancer.state_dict().items()}
    spread = max(float((v - SampleGroup().sum(v) / distributed.world_size()).abs().max()) for v in state.values())
    return {"losses": losses, "weights": weights, "state": state, "spread": spread}


def disagreements():
    """Returns the messages where the processes have other settings, code or data."""
    from study_lab import write_lab

    from mtlkit import distributed
    from mtlkit.config.composition import compose
    from mtlkit.data.dataset import DATASETS
    from mtlkit.data.samples import Samples
    from mtlkit.run.same import check_same_data, check_same_run

    rank, messages = distributed.rank(), []

    def attempt(work, *given):
        try:
            work(*given)
        except ValueError as error:
            messages.append(str(error))

    own = [f"seed={rank}", f"data.root=/{rank}", f"data.workers={rank}", "output_dir=runs"]
    attempt(check_same_run, compose("scenes", own), False)
    attempt(check_same_run, compose("scenes"), rank == 1)
    with tempfile.TemporaryDirectory() as folder:
        write_lab(Path(folder))
        with Path(folder, "pictures_lab.py").open("a") as file:
            file.write(f"# {rank}")
        sys.path.append(folder)
        attempt(check_same_run, compose(f"{folder}/lab.yaml"), False)
    pictures = DATASETS.get("lab_pictures")
    good, other = Samples(pictures()), Samples(pictures(split="val"))
    attempt(check_same_data, good, good)
    attempt(check_same_data, (good, other)[rank], good)
    pictures.__len__ = lambda self: 12 + rank
    attempt(check_same_data, good, good)
    return messages


def main():
    import toys

    torch.set_num_threads(1)
    found = {key: run(toys, *key) for key in RUNS}
    if torch.distributed.is_initialized():
        found["disagreements"] = disagreements()
    if int(__import__("os").environ["RANK"]) == 0:
        torch.save(found, sys.argv[1])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
