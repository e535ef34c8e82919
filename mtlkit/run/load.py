"""`mtlkit.load`: a trained model from the folder of a run, or from the Hugging Face hub."""

import os
import re
from pathlib import Path

import torch

from mtlkit.config.plugins import import_trusted
from mtlkit.run.trained import TrainedModel, load_run


def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    checkpoint: str | None = None,
    trust_plugins: bool = False,
) -> TrainedModel:
    """Loads a trained model. It needs neither the training data nor the module that reads them.

    A task, an encoder, a decoder or a balancer of your own is code. If the model needs such a class, import its module
    before, or say `trust_plugins`. A module that the run's own file names is otherwise imported only if an installed
    package provides it, because that file may come from anyone. A balancer that hands the decoders the shared features
    as they are is not needed.

    Args:
        run: the folder of a run, or "user/name" on the Hugging Face hub. It means the hub only if there is no folder
            `user` here. No module is imported because a file from the hub names it, also none that is installed.
        device: "cpu", "cuda", "cuda:1", ...; None: a GPU if there is one.
        checkpoint: "best", "last" or, of a run in progress, "previous"; None: the one that the run's results belong to
            (`trainer.selection`).
        trust_plugins: import the modules that the run's config.yaml names, wherever Python finds them. They are code.

    Raises:
        FileNotFoundError: there is no such run or checkpoint.
        ValueError: a file is damaged, or the device does not exist.
        LookupError: the model needs a class that cannot be found.

    >>> import numpy as np
    >>> from mtlkit import Experiment
    >>> words = ["data.size=[64,48]", "data.train_size=2", "data.val_size=2", "data.batch_size=2", "data.augment=false"]
    >>> words += ["model.encoder=test_resnet", "model.levels=[1]", "task=[depth]", "data.root=cache"]
    >>> run = Experiment.compose("scenes", [*words, "trainer.max_steps=1", "output_dir=runs/a"]).run()
    >>> model = load("runs/a", device="cpu")
    >>> prediction = model(np.zeros((240, 320, 3), np.uint8))
    >>> tuple(prediction["depth"].shape), model.units
    ((1, 240, 320), {'depth': 'm'})
    """
    name = os.fspath(run)
    folder = Path(name).expanduser()
    if hub := on_the_hub(name):
        from mtlkit.run.hub import download  # its library is slow to import, and a folder does not need it

        folder = download(name)
    if trust_plugins:
        import_trusted(folder)
    return load_run(folder, checkpoint, device, from_hub=hub)


def on_the_hub(name: str) -> bool:
    """Returns whether a text means a model on the hub: two words with a slash, and no folder of the first one's name.

    >>> on_the_hub("somebody/some-model"), on_the_hub("./somebody/some-model"), on_the_hub("some-model")
    (True, False, False)
    """
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    return plain and not Path(name).parent.exists()
