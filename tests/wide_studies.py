"""Writes studies of any size with noise between seeds, for the tests of the page. Nothing is trained."""

import json
import math
from itertools import combinations

import numpy as np
import yaml

from mtlkit.study.comparison import Comparison
from mtlkit.study.outcome import SINGLE, Entry, read_outcome

#: The gain of a method in percent, on average, and how much it varies between tasks.
METHODS = {
    "uniform": (-4.0, 3.0),
    "rotograd": (3.5, 2.0),
    "gradnorm": (-0.5, 3.0),
    "pcgrad": (2.0, 2.0),
    "nash": (0.5, 6.0),
}
METRICS = (("error", False, "m"), ("miou", True, ""), ("angle", False, "°"), ("f1", True, ""))
BASES = {"error": 0.42, "miou": 0.38, "angle": 24.0, "f1": 0.71}


def write(folder, method, seed, gains, metrics, steps=2000):
    """Writes the folder of one finished run. The metric of each task ends at its base, made better by the gain."""
    generator = np.random.default_rng([seed, len(method), sum(map(ord, method))])
    folder.mkdir(parents=True)
    tasks = list(metrics)
    keys = {f"{task}/{metric[0]}": metric for task, metric in metrics.items()}
    config = {"experiment": "rooms", "seed": seed, "balancer": {"name": method}, "trainer": {"max_steps": steps}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    info = {
        "total_steps": steps,
        "processes": 1,
        "validation": "val",
        "selection": "last",
        "protocol": "strict",
        "decoders": "decoders get the plain gradient of their own loss",
        "higher_is_better": {key: metric[1] for key, metric in keys.items()},
        "units": {key: metric[2] for key, metric in keys.items()},
        "versions": {"mtlkit": "0.2.0", "torch": "2.14.1"},
        "started": "2026-11-29T08:00:00+00:00",
    }
    records = [{"step": 0, "split": "info", **info}]
    ends = {}
    luck = np.random.default_rng(seed).normal(0, 0.02)  # of the seed, the same for every method
    for (key, (name, higher, _)), gain in zip(keys.items(), gains.values(), strict=True):
        change = 1 + (1 if higher else -1) * gain / 100
        ends[key] = BASES[name] * change * (1 + luck + generator.normal(0, 0.012))
    for step in range(0, steps + 1, steps // 20):
        part = math.exp(-4 * step / steps)
        if step and len(tasks) > 1:
            pairs = {f"cosine/{a}/{b}": 0.3 * part - 0.03 * len(method) / 5 for a, b in combinations(tasks[:6], 2)}
            weights = {f"weight/{t}": 1 + 0.2 * math.sin(len(method) + i) * (1 - part) for i, t in enumerate(tasks)}
            noisy = {key: value + generator.normal(0, 0.03) for key, value in (pairs | weights).items()}
            time = {"step_time": 0.010 + 0.002 * (len(method) % 4) + generator.normal(0, 1e-4)}
            records.append({"step": step, "epoch": 0, "split": "train", **noisy, **time})
        elif step:
            records.append({"step": step, "epoch": 0, "split": "train", "step_time": 0.006})
        scale = {key: (1 - part) if metric[1] else (1 + 4 * part) for key, metric in keys.items()}
        figures = {k: ends[k] * (scale[k] + generator.normal(0, 0.012) * (step < steps)) for k in keys}
        losses = {f"loss/{task}": part + 0.1 for task in tasks}
        records.append({"step": step, "epoch": 0, "split": "val", **losses, **figures, "monitor": part})
    end = {"status": "finished", "peak_memory": (300 + seed) * 2**20, "memory_of": "of the process"}
    records.append({"step": steps, "split": "info", **end})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def metric_of(place):
    """Returns the metric that the task at a place has."""
    return METRICS[place % len(METRICS)]


def study(root, context=None, methods=METHODS, tasks=("depth", "segmentation", "normals", "edges"), seeds=5):
    """Writes the runs of a study with single-task runs and compares them."""
    found = []
    for seed in range(seeds):
        for place, task in enumerate(tasks):
            folder = write(root / f"single-{place}-{seed}", SINGLE, seed, {task: 0.0}, {task: metric_of(place)})
            found.append(Entry(SINGLE, seed, folder, task=task))
        for number, (method, (mean, spread)) in enumerate(methods.items()):
            changes = mean + spread * np.random.default_rng(number).normal(size=len(tasks))
            gains = dict(zip(tasks, changes, strict=True))
            metrics = {task: metric_of(place) for place, task in enumerate(tasks)}
            found.append(Entry(method, seed, write(root / f"m{number}-{seed}", method, seed, gains, metrics)))
    return Comparison([read_outcome(entry) for entry in found], context)
