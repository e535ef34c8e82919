"""The protocols of attributes: CelebA and ChestX-ray14."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mtlkit.data.dataset import DATASETS, Target
from mtlkit.datasets.celeba import GROUPS
from mtlkit.datasets.chestxray14 import FINDINGS

from .base import EXACT, SINGLE, ByTask, Found, Protocol, close
from .clones import NotThereError


class Attributes(Protocol):
    """Tasks of one attribute each. The public network gives a probability (B, 1) for each."""

    size = (64, 64)
    groups: ClassVar[Mapping[str, tuple[str, ...]]]

    @property
    def targets(self) -> dict[str, Target]:
        return {name: Target("multilabel", classes) for name, classes in self.groups.items()}

    def items(self) -> dict[str, Callable[[], Found]]:
        return {**super().items(), "loss": self.loss}

    def as_theirs(self, task: str, output: Tensor) -> Tensor:
        return output.sigmoid()

    def loss(self) -> Found:
        outputs = torch.randn(len(self.groups), 50, 1, dtype=torch.float64)
        targets = (torch.rand(len(self.groups), 50, 1) < 0.4).double()
        tasks = self.parts.tasks.values()
        ours = [task.loss(o, t) for task, o, t in zip(tasks, outputs, targets, strict=True)]
        mean = torch.stack([total / count for total, count in ours])
        return close([(mean, self.losses_of(outputs.sigmoid(), targets))], EXACT)

    def losses_of(self, probabilities: Tensor, targets: Tensor) -> Tensor:
        """Returns the public loss of each task."""
        return torch.stack([nn.BCELoss()(p, t) for p, t in zip(probabilities, targets, strict=True)])


class CelebAFAMO(Attributes):
    experiment = "celeba_famo"
    repository, commit = "Cranial-XIX/FAMO", "0a6ad06"
    samples = 162_770
    groups = GROUPS["each"]
    reasons: ClassVar[Mapping[str, str]] = {
        "single-task runs": (
            "The public single-task runs never leave training mode, so their batch norms use the test batches. "
            "`model.batch_statistics=true` does the same here."
        ),
    }

    def items(self) -> dict[str, Callable[[], Found]]:
        return {
            **super().items(),
            "parameters that balancers compare": self.shared_part,
            "metric F1": self.f1,
            "image of 64 x 64": self.resized,
            "single-task runs": self.mode,
        }

    def network(self) -> nn.Module:
        return ByTask(list(self.groups), self.clone.get("experiments/celeba/models.py", "Network")())

    def part(self, name: str) -> int:
        words = name.split(".")
        return 1 + int(words[2]) if words[1] == "out_layer" else 0

    def settings(self) -> dict[str, Any]:
        return self.harness_settings("experiments/celeba/trainer.py")

    def shared_part(self) -> Found:
        return self.shared(self.theirs.network.shared_parameters())

    def f1(self) -> Found:
        batches = [(torch.rand(40, 50, 1), (torch.rand(40, 50, 1) < 0.4).float()) for _ in range(2)]
        theirs = self.clone.get("experiments/celeba/trainer.py", "CelebaMetrics")()
        metrics = [task.metrics() for task in self.parts.tasks.values()]
        for probabilities, targets in batches:
            theirs.incr(list(probabilities), list(targets))
            for metric, p, t in zip(metrics, probabilities, targets, strict=True):
                metric.update(p, t)
        ours = [float(metric.compute()["f1"]) for metric in metrics]
        return close([(ours, theirs.result())], SINGLE)

    def resized(self) -> Found:
        """Compares one picture of CelebA's size, through both data sets."""
        noise = np.random.default_rng(0).integers(256, size=(28, 23, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((178, 218), Image.Resampling.BICUBIC)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for part in ("Anno", "Eval", "Img/img_align_celeba"):
                (root / part).mkdir(parents=True)
            names = [name.removeprefix("a_") if name[2:3].isdigit() else name for name in self.groups]
            (root / "Anno/list_attr_celeba.txt").write_text(f"1\n{' '.join(names)}\n000001.jpg{' 1' * 40}\n")
            (root / "Eval/list_eval_partition.txt").write_text("000001.jpg 0\n")
            picture.save(root / "Img/img_align_celeba/000001.jpg", quality=95)
            theirs = self.clone.get("experiments/celeba/data.py", "CelebaDataset")(folder)[0][0]
            ours = DATASETS.build("celeba", root=folder, split="train", size=(64, 64), **self.config.data.options)
            largest = float((ours[0]["image"] - theirs).abs().max() * 255)
        return Found(largest <= 2, f"largest difference {largest:.0f} of 255 levels")  # 2: decoders of JPEG

    def mode(self) -> Found:
        leaves = self.clone.calls("experiments/celeba/trainer_one_task.py", "eval")
        return Found(leaves, "evaluation mode in both" if leaves else "evaluation mode here, training mode there")


class ChestXray14(Attributes):
    experiment = "chestxray14"
    repository, commit = "zoogzog/chexnet", "bbe30b5"
    samples = 78_468
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {name: (name,) for name in FINDINGS}
    reasons: ClassVar[Mapping[str, str]] = {
        "shapes of the parameters": "One linear layer with 14 outputs there, 14 layers with one output here.",
        "options of the optimizer": "The paper CheXNet, which this experiment follows, has 1e-3 and no weight decay.",
        "learning rates": "That code divides the rate when the validation loss stops falling; here at fixed epochs.",
        "batches and epochs": "This project chose 10 epochs, as for 20 % of the data; that code keeps the last batch.",
    }

    def network(self) -> nn.Module:
        return Probabilities(list(self.groups), self.clone.get("DensenetModels.py", "DenseNet121")(14, False))

    def theirs_of(self, image: Tensor) -> Tensor:
        words = self.clone.arguments("ChexnetTrainer.py", "Normalize")
        mean, deviation = (torch.tensor(words[i]).to(image).view(3, 1, 1) for i in (0, 1))
        return (image - mean) / deviation

    def copy(self, ours: Sequence[nn.Module], theirs: Sequence[nn.Module]) -> None:
        *shared, last = theirs
        super().copy(ours[: len(shared)], shared)
        for number, head in enumerate(ours[len(shared) :]):
            head.load_state_dict({name: value[number : number + 1] for name, value in last.state_dict().items()})

    def items(self) -> dict[str, Callable[[], Found]]:
        found = super().items()
        found["start of the weights"] = self.from_torchvision
        return {**found, "metric AUROC": self.auroc}

    def from_torchvision(self) -> Found:
        return self.weights(self.clone.calls("DensenetModels.py", "densenet121"))

    def auroc(self) -> Found:
        raise NotThereError("that code takes AUROC from scikit-learn, under a name that scikit-learn no longer has")

    def settings(self) -> dict[str, Any]:
        words = self.clone.arguments("ChexnetTrainer.py", "Adam")
        text = self.clone.text("Main.py")
        return {
            "lr": words["lr"],
            "weight_decay": words["weight_decay"],
            "batch_size": int(text.partition("trBatchSize = ")[2].split()[0]),
            "epochs": int(text.partition("trMaxEpoch = ")[2].split()[0]),
            "drop_last": self.clone.arguments("ChexnetTrainer.py", "DataLoader").get("drop_last", False),
        }

    def losses_of(self, probabilities: Tensor, targets: Tensor) -> Tensor:
        """One mean over all labels there; the sum over tasks of a mean per task is 14 times that."""
        whole = nn.BCELoss()(probabilities, targets)
        each = super().losses_of(probabilities, targets)
        return each * whole / each.mean()


class Probabilities(ByTask):
    """A public network with one vector of probabilities for all tasks."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.network(image).split(1, dim=1), strict=True))
