"""A tiny run for the tests of `mtlkit.load`, export and push. The plug-in with its data set is gone afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mtlkit

PLUGIN = '''
import torch
from mtlkit.data.dataset import DATASETS, Dataset, Target

@DATASETS.register("noise")
class Noise(Dataset):
    """Random pictures."""

    targets = {"seg": Target("segmentation", ("a", "b", "c")), "depth": Target("depth")}
    targets["flags"] = Target("multilabel", ("p", "q"))
    licence = "Only for tests | of mtlkit."

    def __init__(self, split="train", size=None, limit=None):
        self.n = limit or 4

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        seg, depth = torch.randint(0, 3, (64, 96), generator=g), torch.rand(1, 64, 96, generator=g) + 1
        targets = {"seg": seg, "depth": depth, "flags": torch.tensor([i % 2, 1.0])}
        return {"image": torch.rand(3, 64, 96, generator=g), "targets": targets}
'''
EXPERIMENT = """
plugins: [noise_plugin]
data: {name: noise, batch_size: 2, train_size: 4, val_size: 2}
model: {encoder: test_resnet, levels: [1, 2]}
task: {seg: {type: segmentation}, depth: {type: depth}, flags: {type: multilabel}}
balancer: {name: rotograd, start: random}
trainer: {max_steps: 4, eval_every: 2, lr: 0.05}
"""


@contextmanager
def plugin_there(folder: Path, plugin: str = PLUGIN) -> Iterator[None]:
    """Puts the plug-in into `folder`, where Python finds it. Then nobody knows it any more, and its file is gone."""
    (folder / "noise_plugin.py").write_text(plugin)
    registries = (mtlkit.DATASETS, mtlkit.BALANCERS, mtlkit.TASKS)
    before = [(registry, {name: registry.get(name) for name in registry.names()}) for registry in registries]
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("noise_plugin", None)
        for registry, classes in before:
            registry._classes.clear()
            registry._classes.update(classes)
        (folder / "noise_plugin.py").unlink()


def train(folder: Path, *words: str, plugin: str = PLUGIN) -> Path:
    """Trains in `folder` and returns the run. The plug-in is gone then."""
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    run = folder / "run"
    with plugin_there(folder, plugin):
        mtlkit.Experiment.compose(str(folder / "experiment.yaml"), [*words, f"output_dir={run}"]).run()
    return run
