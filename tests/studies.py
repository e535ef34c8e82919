"""Writes small folders of runs as `mtlkit train` leaves them, for the tests of comparisons. Nothing is trained."""

import math
from pathlib import Path

import yaml

from mtlkit.log import JsonLines
from mtlkit.study.comparison import Comparison, Context
from mtlkit.study.outcome import SINGLE, Entry, read_outcome

HIGHER = {"depth/abs": False, "depth/rel": False, "area/miou": True}
UNITS = {"depth/abs": "m"}
#: By method and metric: the figure of seed 0. Seed s adds s times the second number.
FIGURES = {
    SINGLE: {"depth/abs": (0.50, 0.01), "depth/rel": (0.20, 0.004), "area/miou": (0.40, 0.01)},
    "uniform": {"depth/abs": (0.52, 0.02), "depth/rel": (0.21, 0.002), "area/miou": (0.36, 0.01)},
    "rotograd": {"depth/abs": (0.47, 0.01), "depth/rel": (0.19, 0.004), "area/miou": (0.38, 0.02)},
}


def write_run(folder, method="uniform", seed=0, figures=None, task="", steps=40, **info):
    """Writes the folder of a finished run: config.yaml, and metrics.jsonl with curves and these last figures."""
    figures = figures or {key: start + seed * slope for key, (start, slope) in FIGURES[method].items()}
    figures = {key: value for key, value in figures.items() if not task or key.startswith(f"{task}/")}
    tasks = list(dict.fromkeys(key.split("/")[0] for key in figures))
    folder.mkdir(parents=True)
    name = "uniform" if method == SINGLE else method
    config = {
        "experiment": "rooms",
        "output_dir": str(folder),
        "seed": seed,
        "data": {"name": "scenes", "batch_size": 4},
        "model": {"encoder": "test_resnet"},
        "task": {name: {"type": "depth" if name == "depth" else "segmentation"} for name in tasks},
        "balancer": {"name": name},
        "trainer": {"max_steps": steps, "lr": 0.001},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = JsonLines(folder / "metrics.jsonl")
    facts = {
        "total_steps": steps,
        "processes": 1,
        "validation": "val",
        "selection": "last",
        "protocol": "strict",
        "preset": None,
        "decoders": "decoders get the plain gradient of their own loss",
        "higher_is_better": {key: HIGHER[key] for key in figures},
        "units": {key: UNITS.get(key, "") for key in figures},
        "versions": {"mtlkit": "0.2.0", "torch": "2.14.1"},
        "started": "2026-11-29T08:00:00+00:00",
    }
    log.note({"step": 0, "split": "info", **facts, **info})
    for step in range(0, steps + 1, steps // 4):
        part = math.exp(-3 * step / steps)
        losses = {f"loss/{name}": (1 + seed / 10) * part + 0.1 for name in tasks}
        if step:
            pairs = {"cosine/depth/area": -0.2 + part / 2 + seed / 50} if len(tasks) == 2 else {}
            weights = {f"weight/{name}": 1 + 0.1 * place * part for place, name in enumerate(tasks)}
            norms = {f"grad_norm/{name}": 2 + part for name in tasks}
            times = {"step_time": 0.010 + 0.001 * seed + 0.005 * (method == "rotograd")}
            log.step({"step": step, "epoch": 0, "split": "train", **losses, **weights, **norms, **pairs, **times})
        now = {key: value * (1 - part * (1 if HIGHER[key] else -1)) for key, value in figures.items()}
        now = figures if step == steps else now
        log.evaluation({"step": step, "epoch": 0, "split": "val", **losses, **now, "monitor": part})
    end = {"status": "finished", "peak_memory": (300 + seed) * 2**20, "memory_of": "of the process"}
    log.note({"step": steps, "split": "info", **end})
    log.finish({})
    return folder


def entries(root: Path, methods=("uniform", "rotograd"), seeds=(0, 1, 2), single=True):
    """Writes the runs of a study and returns their entries."""
    found = []
    for seed in seeds:
        for task in ("depth", "area") if single else ():
            run = write_run(root / f"single-{task}-{seed}", SINGLE, seed, task=task)
            found.append(Entry(SINGLE, seed, run, task=task))
        for method in methods:
            found.append(Entry(method, seed, write_run(root / f"{method}-{seed}", method, seed)))
    return found


def compare(root: Path, context: Context | None = None, **options) -> Comparison:
    """Writes the runs of a study and compares them."""
    return Comparison([read_outcome(entry) for entry in entries(root, **options)], context)
