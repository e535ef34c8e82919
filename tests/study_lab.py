"""A plug-in and an experiment for the tests of studies, as text. A run of it takes a second."""

from pathlib import Path

PLUGIN = '''
import os
import signal
import torch
from mtlkit import BALANCERS, DATASETS, OBSERVERS
from mtlkit.balancer import Balancer
from mtlkit.data.dataset import Dataset
from mtlkit.errors import StepError
from mtlkit.observer import Observer
from mtlkit.target import Target

@DATASETS.register("lab_pictures")
class Pictures(Dataset):
    """Twelve random pictures."""
    def __init__(self, root=None, split="train", size=None, limit=None):
        self.split = split
        self.targets = {"area": Target("segmentation", ("a", "b")), "depth": Target("depth")}
    def __len__(self):
        return 12
    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + {"train": 0, "val": 100, "test": 200}[self.split])
        image = torch.rand(3, 32, 32, generator=generator)
        return {"image": image, "targets": {"area": (image[0] > 0.5).long(), "depth": 1 + image[1:2]}}

@BALANCERS.register("falls")
class Falls(Balancer):
    """Its second step is not possible."""
    equals_uniform = True
    def objective(self, step):
        if step.number:
            raise StepError("the problem has no solution")
        return super().objective(step)

@OBSERVERS.register("stops")
class Stops(Observer):
    """The user presses Ctrl-C in the run of CAGrad with seed 1, in its third step."""
    def __init__(self, config):
        self.here = "cagrad,seed=1" in config.output_dir
    def step(self, record):
        if self.here and record["step"] == 3:
            raise KeyboardInterrupt

@OBSERVERS.register("terminated")
class Terminated(Stops):
    """A scheduler ends the process in that step."""
    def step(self, record):
        if self.here and record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

@BALANCERS.register("killed")
class Killed(Balancer):
    """Memory runs out: the system kills the process."""
    equals_uniform = True
    def objective(self, step):
        os.kill(os.getpid(), signal.SIGKILL)

@BALANCERS.register("buggy")
class Buggy(Balancer):
    """Its author made a mistake."""
    equals_uniform = True
    def objective(self, step):
        return step.no_such_thing
'''
EXPERIMENT = """
plugins: [pictures_lab]
data: {name: lab_pictures, batch_size: 4}
model: {encoder: test_resnet, levels: [2]}
task: {area: {type: segmentation}, depth: {type: depth}}
trainer: {max_steps: 4, log_every: 1, eval_every: 2}
"""


def write_lab(folder: Path) -> None:
    """Writes the plug-in `pictures_lab.py` and the experiment `lab.yaml`."""
    (folder / "pictures_lab.py").write_text(PLUGIN)
    (folder / "lab.yaml").write_text(EXPERIMENT)
