"""The protocols of digits."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mtlkit.data.dataset import DATASETS, Target
from mtlkit.datasets.mnist import read_digits

from .base import EXACT, SINGLE, ByTask, Found, Protocol, close, layers_of
from .clones import NotThereError


def write_digits(folder: Path, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes random digits as MNIST's four files, of every class. Returns the test images and labels."""
    random = np.random.default_rng(0)
    for file, count in (("train", 60), ("t10k", test)):
        images = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = np.array([0x0800 + values.ndim, *values.shape], dtype=">u4").tobytes()
            (folder / f"{file}-{name}-ubyte").write_bytes(head + values.tobytes())
    return images, labels


def partners(count: int) -> np.ndarray:
    """Returns the right digit of each test picture, by the recipe in the docstring of the data set `multimnist`."""
    return np.random.Generator(np.random.PCG64([0, 2])).integers(count, size=count)


class CLRR(Protocol):
    experiment = "cl_rr"
    repository, commit = "Gabriel-SGama/UnitScal_vs_SMTOs", "a656e52"
    size = (28, 28)
    samples = 50_000
    tasks = ("classify", "reconstruct")
    folder = "supervised_experiments"

    @property
    def targets(self) -> dict[str, Target]:
        return dict(DATASETS.get("cl_rr").targets)

    def items(self) -> dict[str, Callable[[], Found]]:
        return {
            **super().items(),
            "loss of classify": self.classification,
            "loss of reconstruct": self.reconstruction,
            "metric of classify": self.accuracy,
            "metric of reconstruct": self.error,
            "pictures": self.pictures,
        }

    def network(self) -> nn.Module:
        names = ("MultiLeNetE", "MultiLeNetC", "MultiLeNetR")
        parts = [self.clone.get(f"{self.folder}/models/multi_lenet.py", name)() for name in names]
        encoder, *heads = map(WithoutMask, parts)
        return ByTask(self.tasks, encoder, heads)

    def part(self, name: str) -> int:
        kind, number = name.split(".")[:2]
        return 1 + int(number) if kind == "heads" else 0

    def image(self) -> Tensor:
        return torch.rand(2, 1, 28, 28, dtype=torch.float64).expand(2, 3, 28, 28)

    def theirs_of(self, image: Tensor) -> Tensor:
        return self.standardised(image[:, :1])

    def standardised(self, values: Tensor) -> Tensor:
        words = self.clone.arguments(f"{self.folder}/datasets.py", "Normalize")
        return (values - words[0][0]) / words[1][0]

    def as_theirs(self, task: str, output: Tensor) -> Tensor:
        return output.log_softmax(1) if task == "classify" else output.squeeze(1)

    def settings(self) -> dict[str, Any]:
        trainer = f"{self.folder}/train_multi_task.py"
        options = self.clone.options(trainer)
        return {
            "lr": options["lr"],
            "weight_decay": options["weight_decay"],
            "batch_size": options["batch_size"],
            "epochs": options["num_epochs"],
            "drop_last": self.clone.arguments(f"{self.folder}/datasets.py", "DataLoader").get("drop_last", False),
        }

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        words = self.clone.arguments(f"{self.folder}/train_multi_task.py", "ExponentialLR")
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, words[1])

    def classification(self) -> Found:
        output, target = torch.randn(50, 10, dtype=torch.float64), torch.arange(50) % 10
        total, count = self.parts.tasks["classify"].loss(output, target)
        theirs = self.clone.get(f"{self.folder}/losses.py", "nll")(output.log_softmax(1), target)
        return close([(total / count, theirs)], EXACT)

    def _reconstructed(self) -> tuple[Tensor, Tensor]:
        """Returns raw outputs of the decoder, near their targets, and targets in [0, 1]."""
        target = torch.rand(10, 1, 28, 28, dtype=torch.float64)
        return self.standardised(target) + 0.3 * torch.randn_like(target), target

    def reconstruction(self) -> Found:
        output, target = self._reconstructed()
        total, count = self.parts.tasks["reconstruct"].loss(output, target)
        theirs = self.clone.get(f"{self.folder}/losses.py", "msel")(output, self.standardised(target))
        return close([(total / count, theirs)], EXACT)

    def accuracy(self) -> Found:
        output, target = torch.randn(50, 10), torch.arange(50) % 10
        metrics = self.parts.tasks["classify"].metrics()
        metrics.update(self.parts.tasks["classify"].predict(output), target)
        theirs = self.clone.get(f"{self.folder}/metrics.py", "AccuracyMetric")()
        theirs.update(output, target)
        return close([(metrics.compute()["accuracy"], theirs.get_result()["acc"])], SINGLE)

    def error(self) -> Found:
        """Compares the ratio of the errors of two outputs, which is what delta-m takes. Ours are of other units."""
        task, ours, theirs = self.parts.tasks["reconstruct"], [], []
        output, target = self._reconstructed()
        for closer in (1.0, 0.5):
            value = self.standardised(target) + closer * (output - self.standardised(target))
            metrics = task.metrics()
            metrics.update(task.predict(value), target)
            ours.append(float(metrics.compute()["mse"]))
            metric = self.clone.get(f"{self.folder}/metrics.py", "MeanSquaredErrorMetric")()
            metric.update(value, self.standardised(target))
            theirs.append(float(metric.get_result()["MSE"]))
        found = close([(ours[1] / ours[0], theirs[1] / theirs[0])], SINGLE)
        return Found(
            found.same, f"ratio of two errors: {found.figures}; {theirs[0] / ours[0]:.2f} times as large there"
        )

    def pictures(self) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            digits, _ = write_digits(Path(folder), 10_000)  # that code refuses another number
            make = self.clone.get(f"{self.folder}/loaders/multi_mnist_loader.py", "create_multimnist_images")
            _, left, right, both, *_ = make(f"{folder}/t10k-images-idx3-ubyte", "test", partners(10_000).tolist())
            assert torch.equal(left, torch.from_numpy(digits).double())
            ours = DATASETS.build("cl_rr", root=folder, split="test")
            samples = [ours[i] for i in range(0, 10_000, 50)]
        pictures = torch.stack([sample["image"][0] for sample in samples]) * 255
        targets = torch.stack([sample["targets"]["reconstruct"][0] for sample in samples]) * 255
        return close([(pictures.round(), both[::50]), (targets.round(), right[::50])], 0)


class WithoutMask(nn.Module):
    """A public part that returns a mask of dropout beside its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class MultiMNISTOriginal(Protocol):
    """Only the shared network and the pictures have public code: those of MGDA, which RotoGrad's paper names."""

    experiment = "multimnist_original"
    repository, commit = "isl-org/MultiObjectiveOptimization", "bf5bbb3"
    size = (28, 28)
    reasons: ClassVar[Mapping[str, str]] = {
        "start of the weights": "This project chose He's start: many units of the reduced LeNet are dead without it.",
    }

    @property
    def targets(self) -> dict[str, Target]:
        return dict(DATASETS.get("multimnist").targets)

    def items(self) -> dict[str, Callable[[], Found]]:
        found = super().items()
        kept = ("number of parameters", "shapes of the parameters", "start of the weights", "forward pass, evaluation")
        return {**{name: found[name] for name in kept}, "pictures": self.pictures}

    @cached_property
    def ours(self) -> nn.Module:
        return Features(self.parts.model.encoder).double()

    @cached_property
    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        image = self.image()
        return layers_of(self.ours, image, self.part), layers_of(self.theirs, self.theirs_of(image), self.part)

    def network(self) -> nn.Module:
        encoder = self.clone.get("multi_task/models/multi_lenet.py", "MultiLeNetR")()
        return Features(WithMask(encoder))

    def image(self) -> Tensor:
        return torch.rand(2, 1, 28, 28, dtype=torch.float64).expand(2, 3, 28, 28)

    def theirs_of(self, image: Tensor) -> Tensor:
        words = self.clone.arguments("multi_task/loaders/multi_mnist_loader.py", "Normalize")
        return (image[:, :1] - words[0][0]) / words[1][0]

    def settings(self) -> dict[str, Any]:
        raise NotThereError(f"the protocol of {self.experiment} has no public code")

    def pictures(self) -> Found:
        file = "multi_task/loaders/multi_mnist_loader.py"
        with tempfile.TemporaryDirectory() as folder:
            write_digits(Path(folder), 100)
            module = self.clone.module(file)
            module.m = _Resize  # type: ignore[attr-defined]  # scipy has lost it
            drawn = iter(partners(100).tolist())
            with mock.patch.object(np.random, "permutation", side_effect=lambda _: np.array([next(drawn)])):
                theirs = self.clone.get(file, "read_image_file")(f"{folder}/t10k-images-idx3-ubyte")[1]
            ours = DATASETS.build("multimnist", root=folder, split="test")
            pictures = torch.stack([ours[i]["image"][0] for i in range(100)]) * 255
        return close([(pictures.round(), theirs)], 0)


class _Resize:
    """Stands for scipy.misc, whose `imresize` called Pillow."""

    @staticmethod
    def imresize(values: np.ndarray, size: tuple[int, int], interp: str) -> np.ndarray:
        return np.array(Image.fromarray(np.uint8(values)).resize(size[::-1], Image.Resampling[interp.upper()]))


class WithMask(WithoutMask):
    """A public encoder that is called with a mask of dropout; in evaluation it does not use it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.new_ones(1, 1, 1, 1))[0]


class Features(nn.Module):
    """An encoder alone: its output under the name `features`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.encoder(image)
        return {"features": found[0] if isinstance(found, list) else found}


class MultiDigitMNIST(Protocol):
    """Only the pictures have public code."""

    experiment = "multidigitmnist"
    repository, commit = "shaohua0116/MultiDigitMNIST", "f8f9aa2"

    @property
    def targets(self) -> dict[str, Target]:
        return {}

    def items(self) -> dict[str, Callable[[], Found]]:
        return {"pictures and splits": self.pictures}

    def network(self) -> nn.Module:
        raise NotThereError(f"the protocol of {self.experiment} has no public network")

    def settings(self) -> dict[str, Any]:
        raise NotThereError(f"the protocol of {self.experiment} has no public code")

    def pictures(self) -> Found:
        per_class, drawn = 2, {}
        module = self.clone.module("generator.py")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_digits(root, 40)
            digits, labels = (
                np.concatenate([read_digits(root, file, False)[i] for file in ("train", "t10k")]) for i in (0, 1)
            )
            module.check_mnist_dir = lambda _: None  # type: ignore[attr-defined]  # it would download MNIST
            module.extract_mnist = lambda _: (digits[..., None], labels)  # type: ignore[attr-defined]
            module.imwrite = lambda path, picture: drawn.update({str(path): picture})  # type: ignore[attr-defined]
            options = argparse.Namespace(
                **{name: value for name, value in self.clone.options("generator.py").items() if value is not None}
            )
            options.multimnist_path, options.num_image_per_class = folder, per_class
            self.clone.get("generator.py", "generator")(options)
            pairs = []
            for split in ("train", "val", "test"):
                ours = DATASETS.build("multidigitmnist", root=root, split=split, classes="all", per_class=per_class)
                names = sorted({Path(name).parent.name for name in drawn if f"/{split}/" in name})
                ours_by_name: dict[str, list[Tensor]] = {}
                for sample in (ours[i] for i in range(len(ours))):
                    name = "".join(str(int(sample["targets"][side])) for side in ("left", "right"))
                    ours_by_name.setdefault(name, []).append(sample["image"][0] * 255)
                if sorted(ours_by_name) != names:
                    return Found(False, f"other pairs of digits in {split}")
                pairs += [
                    (picture.round(), drawn[f"{folder}/{split}/{name}/{k}_{name}.png"].astype(np.float64))
                    for name, pictures in ours_by_name.items()
                    for k, picture in enumerate(pictures)
                ]
        found = close(pairs, 0)
        return Found(found.same, f"{len(pairs)} pictures, {found.figures}")
