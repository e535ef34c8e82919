"""The protocols of maps: NYUv2 and Cityscapes."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.data.dataset import Target
from mtlkit.data.transforms import _Move
from mtlkit.study.delta_m import PUBLISHED, DeltaM
from mtlkit.target import Motion, kinds_of

from .base import BIN, EXACT, GUARD, SINGLE, ByTask, Found, Protocol, close, equal

GRID = (2, 24, 32)  # batch, rows and columns of random targets


def random_targets(classes: int, lengths: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns outputs and targets of maps, the targets with invalid pixels. `lengths`: normals shorter than 1, too."""
    batch, rows, columns = GRID
    outputs = {
        "segmentation": torch.randn(batch, classes, rows, columns, dtype=torch.float64),
        "depth": torch.randn(batch, 1, rows, columns, dtype=torch.float64),  # half of them below 0
    }
    labels = torch.arange(batch * rows * columns).view(GRID) % (classes + 1) - 1  # every class, and -1
    depth = torch.rand(batch, 1, rows, columns, dtype=torch.float64) + 0.1
    normals = F.normalize(torch.randn(batch, 3, rows, columns, dtype=torch.float64), dim=1)
    outputs["normals"] = normals + 0.3 * torch.randn_like(normals)
    if lengths:
        normals[:, :, ::3] *= 0.8
    invalid = torch.rand(batch, 1, rows, columns) < 0.3
    targets = {"depth": depth.masked_fill(invalid, 0), "normals": normals.masked_fill(invalid, 0)}
    return outputs, {"segmentation": labels, **targets}


LENGTHS = (
    "The public code takes target vectors as they are, so one of length 0.8 counts 0.8 times. Here every target is "
    "scaled to length 1."
)
ANGLES = (
    "The public code takes the arccosine of a product with the vector as it is. Here the angle is that of directions."
)
ABSENT = (
    "For a class that neither targets nor predictions have, the public code divides 0 by 0, and its mean is NaN. Here "
    "the mean is over the other classes."
)


class Maps(Protocol):
    """A protocol of maps whose loss functions and metrics come from `loss_of` and `figures_of`."""

    classes: ClassVar[int] = 13
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "depth", "normals")
    augmentation: ClassVar[str] = ""  #: the file of RandomScaleCrop
    reasons: ClassVar[Mapping[str, str]] = {
        "metrics of normals shorter than 1": ANGLES,
        "mean IoU without a class": ABSENT,
    }

    @property
    def targets(self) -> dict[str, Target]:
        names = tuple(f"class {i}" for i in range(self.classes))
        every = {"segmentation": Target("segmentation", names), "depth": Target("depth"), "normals": Target("normals")}
        return {task: every[task] for task in self.tasks}

    def items(self) -> dict[str, Callable[[], Found]]:
        found = super().items()
        found |= {f"loss of {task}": lambda task=task: self.loss(task) for task in self.tasks}
        found |= {f"metrics of {task}": lambda task=task: self.metrics(task) for task in self.tasks}
        if "normals" in self.tasks:
            found["loss of normals shorter than 1"] = lambda: self.loss("normals", lengths=True)
            found["metrics of normals shorter than 1"] = lambda: self.metrics("normals", lengths=True)
        found["mean IoU without a class"] = self.absent
        if self.augmentation:
            found["augmentation: mirror alone"] = lambda: self.moved("image", *self.tasks, scale=0)
            found |= {f"augmentation: {what}": lambda what=what: self.moved(what) for what in ("image", *self.tasks)}
            found["augmentation: division of depth"] = self.division
        return found

    @abstractmethod
    def loss_of(self, task: str, output: Tensor, target: Tensor) -> Tensor:
        """Returns the public loss of a batch."""

    @abstractmethod
    def figures_of(self, task: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Returns the public figures of several batches, by the names of the metrics here."""

    def as_theirs(self, task: str, output: Tensor) -> Tensor:
        if task == "segmentation":
            return output.log_softmax(1)
        return output / output.norm(dim=1, keepdim=True) if task == "normals" else output

    def loss(self, task: str, lengths: bool = False) -> Found:
        outputs, targets = random_targets(self.classes, lengths)
        total, count = self.parts.tasks[task].loss(outputs[task], targets[task])
        theirs = self.loss_of(task, self.as_theirs(task, outputs[task]), targets[task])
        return close([(total / count, theirs)], GUARD if task == "normals" else EXACT)

    def metrics(self, task: str, lengths: bool = False) -> Found:
        batches = [random_targets(self.classes, lengths) for _ in range(2)]
        pairs = [(outputs[task], targets[task]) for outputs, targets in batches]
        found = self.parts.tasks[task].metrics()
        for output, target in pairs:
            found.update(self.parts.tasks[task].predict(output), target)
        theirs = self.figures_of(task, [(self.as_theirs(task, output), target) for output, target in pairs])
        ours = {name: float(value) for name, value in found.compute().items()}
        angles = [name for name in theirs if name in ("mean", "median")]  # these have degrees
        compared = close([(ours[name], value) for name, value in theirs.items() if name not in angles], SINGLE)
        figures = f"{', '.join(name for name in theirs if name not in angles)}: {compared.figures}"
        if not angles:
            return Found(compared.same, figures)
        largest = max(abs(ours[name] - theirs[name]) for name in angles)
        same = compared.same and largest <= BIN
        return Found(same, f"{figures}; {', '.join(angles)}: largest difference {largest:.5f}°")

    def absent(self) -> Found:
        outputs, targets = random_targets(self.classes)
        output, target = outputs["segmentation"], targets["segmentation"].clamp_max(self.classes - 2)
        output[:, -1] = -100
        task = self.parts.tasks["segmentation"]
        metrics = task.metrics()
        metrics.update(task.predict(output), target)
        theirs = self.figures_of("segmentation", [(output.log_softmax(1), target)])["miou"]
        ours = float(metrics.compute()["miou"])
        return Found(ours == theirs, f"{ours:.3f} here, {theirs:.3f} there")

    # -- augmentation

    def sample(self) -> dict[str, Tensor]:
        rows, columns = 288, 384  # of NYUv2: the crops of both scales have whole pixels
        y, x = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
        waves = torch.stack([torch.sin(9 * x + 5 * y), torch.cos(7 * x - 4 * y), torch.sin(11 * x * y)])
        labels = ((x * 13).long() + (y * 7).long()) % self.classes
        every = {"segmentation": labels, "depth": waves[:1] + 2, "normals": F.normalize(waves + 0.1, dim=0)}
        return {"image": waves / 2 + 0.5, **{task: every[task] for task in self.tasks}}

    def both_moved(self, scale: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns a mirrored sample, enlarged by the scale of this number, with the same draws on both sides."""
        sample = self.sample()
        factor = self.config.data.augmentation.scale[scale]
        rows, columns = sample["image"].shape[1:]
        top, left = (17, 40) if scale else (0, 0)
        module = self.clone.module(self.augmentation)
        crop = self.clone.get(self.augmentation, "RandomScaleCrop")()
        draws = iter((scale, top, left))
        module.random = _Draws(draws)  # type: ignore[attr-defined]
        given = [value.float() if value.dtype == torch.int64 else value for value in sample.values()]
        theirs = dict(zip(sample, crop(*given), strict=True))
        theirs = {name: value.flip(-1) for name, value in theirs.items()}
        if "normals" in theirs:
            theirs["normals"][0] *= -1

        corner = np.array([left / columns, top / rows])
        motion = Motion((columns, rows), factor, corner, None, True, self.config.data.augmentation.compat)
        kinds = kinds_of(self.targets)
        move = _Move(kinds, [factor], 1.0, motion.compat)
        image = move.apply(np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy()), motion)
        ours = {"image": torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)}
        for task in self.tasks:
            moved = move.move(kinds[task], sample[task].numpy(), motion)
            ours[task] = torch.from_numpy(np.ascontiguousarray(moved))
        return ours, theirs

    def moved(self, *names: str, scale: int = 1) -> Found:
        ours, theirs = self.both_moved(scale)
        if names == ("segmentation",):
            share = float((ours["segmentation"] != theirs["segmentation"]).double().mean())
            return Found(share == 0, f"{share:.1%} of the pixels have another class")
        return close([(ours[name], theirs[name]) for name in names], 1e-6)  # float32

    def division(self) -> Found:
        """Compares the largest and smallest depth, which do not depend on the places of pixels."""
        ours, theirs = self.both_moved(1)
        found = close([(ours["depth"].median(), theirs["depth"].median())], 5e-3)
        return Found(found.same, f"median of the depth: {found.figures}")


class _Draws:
    """Stands for the module `random`: gives known numbers."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = iter(numbers)

    def randint(self, low: int, high: int) -> int:
        number = next(self.numbers)
        assert low <= number <= high
        return number


class HarnessOfCAGrad(Maps):
    """The harness that CAGrad's code began and that Nash-MTL's, FAMO's and others' repeat, in the folder `folder`."""

    folder: ClassVar[str]
    base: ClassVar[str]  #: the name of its single-task figures in PUBLISHED

    def items(self) -> dict[str, Callable[[], Found]]:
        return {
            **super().items(),
            "parameters that balancers compare": self.shared_part,
            "delta-m and its single-task figures": self.delta,
        }

    def shared_part(self) -> Found:
        return self.shared(self.theirs.network.shared_parameters())

    def network(self) -> nn.Module:
        return ByTask(self.tasks, self.clone.get(f"{self.folder}/models.py", "SegNetMtan")())

    def part(self, name: str) -> int:
        words = name.removeprefix("network.segnet.").split(".")
        if words[0] in ("encoder_att", "decoder_att"):
            return 1 + int(words[1])
        return int(words[0].removeprefix("pred_task")) if words[0].startswith("pred_task") else 0

    def settings(self) -> dict[str, Any]:
        return self.harness_settings(f"{self.folder}/trainer.py")

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        words = self.clone.arguments(f"{self.folder}/trainer.py", "StepLR")
        return torch.optim.lr_scheduler.StepLR(optimizer, words["step_size"], words["gamma"])

    def loss_of(self, task: str, output: Tensor, target: Tensor) -> Tensor:
        words = {"segmentation": "semantic", "depth": "depth", "normals": "normal"}
        return self.clone.get(f"{self.folder}/trainer.py", "calc_loss")(output, target, words[task])

    def figures_of(self, task: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        file = f"{self.folder}/utils.py"
        if task == "segmentation":
            matrix = self.clone.get(file, "ConfMatrix")(self.classes)
            for output, target in batches:
                matrix.update(output.argmax(1).flatten(), target.flatten())
            return dict(zip(("miou", "pixel_accuracy"), map(float, matrix.get_metrics()), strict=True))
        function, names = {
            "depth": ("depth_error", ("abs", "rel")),
            "normals": ("normal_error", ("mean", "median", "within_11", "within_22", "within_30")),
        }[task]
        every = [self.clone.get(file, function)(output, target) for output, target in batches]
        return dict(zip(names, np.mean(every, axis=0).tolist(), strict=True))

    def delta(self) -> Found:
        base = PUBLISHED[self.base]
        figures = {key: value * (1.1 + 0.1 * i) for i, (key, value) in enumerate(base.figures.items())}
        metrics = {f"{t}/{name}": m for t in self.tasks for name, m in self.parts.tasks[t].metrics().items()}
        higher = {key: bool(metrics[key].higher_is_better) for key in figures}
        ours = DeltaM(higher, average="metrics", better="negative")({0: figures}, base)
        theirs = self.clone.get(f"{self.folder}/utils.py", "delta_fn")(np.array(list(figures.values())))
        return close([(ours.value, theirs)], EXACT)


MASKS = (
    "That code takes everything but the heads: SegNet, the shared attention convolutions and the masks of all tasks. "
    "Here balancers compare the gradients of SegNet; the attention convolutions get the same weights, and the masks "
    "belong to the decoders."
)


class NYUv2MTAN(HarnessOfCAGrad):
    experiment = "nyuv2_mtan"
    repository, commit = "AvivNavon/nash-mtl", "cce1840"
    folder, base = "experiments/nyuv2", "cagrad_nyuv2"
    reasons: ClassVar[Mapping[str, str]] = {**Maps.reasons, "parameters that balancers compare": MASKS}
    augmentation = "experiments/nyuv2/data.py"
    samples = 795


class CityscapesMTAN(HarnessOfCAGrad):
    experiment = "cityscapes"
    repository, commit = "Cranial-XIX/FAMO", "0a6ad06"
    folder, base = "experiments/cityscapes", "cagrad_cityscapes"
    augmentation = "experiments/cityscapes/data.py"
    samples, classes, tasks = 2975, 7, ("segmentation", "depth")
    reasons: ClassVar[Mapping[str, str]] = {
        **{key: why for key, why in Maps.reasons.items() if "normals" not in key},
        "parameters that balancers compare": MASKS,
    }


class NYUv2Rotograd(HarnessOfCAGrad):
    experiment = "nyuv2_rotograd"
    repository, commit = "AvivNavon/rotograd-mtl", "85bcf8f"
    folder, base = "nyuv2", "cagrad_nyuv2"
    augmentation = "nyuv2/data.py"
    samples = 795

    def items(self) -> dict[str, Callable[[], Found]]:
        found = super().items()
        for name in ("parameters that balancers compare", "delta-m and its single-task figures"):
            del found[name]  # that code has none
        return {**found, "rotations": self.rotations}

    def network(self) -> nn.Module:
        names = ("SegnetBackbone", "SegmentationHead", "DepthHead", "NormalHead")
        backbone, *heads = (self.clone.get("nyuv2/models.py", name)() for name in names)
        for head in heads:  # the public heads have the full size of the images in their code
            head.unflatten = lambda z: z.view(len(z), 64, self.size[1], self.size[0])
        return ByTask(self.tasks, backbone, heads)

    def part(self, name: str) -> int:
        kind, number = name.split(".")[:2]
        return 1 + int(number) if kind == "heads" else 0

    def settings(self) -> dict[str, Any]:
        options = self.clone.options("nyuv2/trainer.py")
        return {
            "lr": options["lr"],
            "weight_decay": self.clone.arguments("nyuv2/trainer.py", "Adam").get("weight_decay", 0),
            "batch_size": options["batch_size"],
            "epochs": options["n_epochs"],
            "drop_last": self.clone.arguments("nyuv2/trainer.py", "DataLoader").get("drop_last", False),
        }

    def rotations(self) -> Found:
        options, balancer = self.clone.options("nyuv2/trainer.py"), self.config.balancer.options
        words = self.clone.arguments("nyuv2/trainer.py", "RotoGrad")
        ours = {"lr": balancer["lr"], "normalize_losses": self.config.trainer.normalize_losses == 1}
        return equal(ours, {"lr": options["method_params_lr"], "normalize_losses": words["normalize_losses"]})


class NYUv2LibMTL(Maps):
    experiment = "nyuv2_libmtl"
    repository, commit = "median-research-group/LibMTL", "4336804"
    samples = 795
    reasons: ClassVar[Mapping[str, str]] = {
        **Maps.reasons,
        "loss of normals shorter than 1": LENGTHS,
        "forward pass with resizing": "LibMTL resizes outputs with the corners in the corners (`align_corners=True`).",
    }

    def items(self) -> dict[str, Callable[[], Found]]:
        more = {"ImageNet's weights": self.from_torchvision, "forward pass with resizing": self.resized}
        return {**super().items(), **more, "delta-m": self.delta}

    def delta(self) -> Found:
        figures = [np.linspace(0.3, 0.9, count) for count in (2, 2, 5)]
        higher = [np.array([1, 1]), np.array([0, 0]), np.array([0, 0, 1, 1, 1])]
        base = dict(zip(self.tasks, figures, strict=True))
        new = {task: values * (1.1 + 0.1 * i) for i, (task, values) in enumerate(base.items())}
        weight = dict(zip(self.tasks, higher, strict=True))
        theirs = self.clone.get("LibMTL/utils.py", "count_improvement")(base, new, weight)

        def named(values: Mapping[str, np.ndarray]) -> dict[str, float]:
            return {f"{task}/{i}": float(value) for task, row in values.items() for i, value in enumerate(row)}

        ours = DeltaM({key: bool(up) for key, up in named(weight).items()})({0: named(new)}, {0: named(base)})
        return close([(ours.value, 100 * theirs)], EXACT)

    def from_torchvision(self) -> Found:
        where = self.clone.get("LibMTL/model/resnet.py", "model_urls")["resnet50"]
        return self.weights(where.startswith("https://download.pytorch.org/"))

    def network(self) -> nn.Module:
        encoder = self.clone.get("LibMTL/model/resnet_dilated.py", "resnet_dilated")("resnet50", pretrained=False)
        head = self.clone.get("examples/nyu/aspp.py", "DeepLabHead")
        return ByTask(self.tasks, encoder, [head(2048, channels) for channels in (self.classes, 1, 3)])

    def part(self, name: str) -> int:
        kind, number = name.split(".")[:2]
        return 1 + int(number) if kind == "heads" else 0

    def as_theirs(self, task: str, output: Tensor) -> Tensor:
        return output

    def settings(self) -> dict[str, Any]:
        options = self.clone.options("LibMTL/config.py", "examples/nyu/main.py")
        loader = self.clone.arguments("examples/nyu/main.py", "DataLoader")
        return {
            "lr": options["lr"],
            "weight_decay": options["weight_decay"],
            "batch_size": options["train_bs"],
            "epochs": options["epochs"],
            "drop_last": loader.get("drop_last", False),
        }

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        options = self.clone.options("LibMTL/config.py")  # with `--scheduler step`, as its page of NYUv2 says
        return torch.optim.lr_scheduler.StepLR(optimizer, options["step_size"], options["gamma"])

    def _pass(self, training: bool) -> Found:
        """Compares the outputs before they are resized to the image."""
        for decoder in self.ours.decoders.values():
            decoder.dense = False
        found = super()._pass(training)
        for decoder in self.ours.decoders.values():
            del decoder.dense
        return found

    def resized(self) -> Found:
        _ = self.same_weights
        image = self.image()
        with torch.no_grad():
            ours, theirs = self.ours.eval()(image), self.theirs.eval()(image)
        words = self.clone.arguments("examples/nyu/main.py", "interpolate")
        options = {"mode": words["mode"], "align_corners": words["align_corners"]}
        pairs = [(ours[task], F.interpolate(theirs[task], image.shape[-2:], **options)) for task in theirs]
        return close(pairs, EXACT)

    def loss_of(self, task: str, output: Tensor, target: Tensor) -> Tensor:
        name = {"segmentation": "SegLoss", "depth": "DepthLoss", "normals": "NormalLoss"}[task]
        return self.clone.get("examples/nyu/utils.py", name)().compute_loss(output, target)

    def figures_of(self, task: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        name, words, names = {
            "segmentation": ("SegMetric", (self.classes,), ("miou", "pixel_accuracy")),
            "depth": ("DepthMetric", (), ("abs", "rel")),
            "normals": ("NormalMetric", (), ("mean", "median", "within_11", "within_22", "within_30")),
        }[task]
        metric = self.clone.get("examples/nyu/utils.py", name)(*words)
        for output, target in batches:
            metric.update_fun(output, target)
        return dict(zip(names, map(float, metric.score_fun()), strict=True))
