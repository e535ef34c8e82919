"""Writes a trained model as a program that needs no mtlkit: ONNX, or a program of `torch.export`.

The graph holds everything between an image in [0, 1] and the predictions: the encoder's normalisation, the balancer's
adapters, the decoders, the resizing of maps and what `Task.predict` does.
"""

import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mtlkit.engine.lora import merge_lora
from mtlkit.engine.predictor import Predictor
from mtlkit.files import write_whole
from mtlkit.run.check_images import find_check_images
from mtlkit.run.checkpoint import step_of
from mtlkit.run.graph import WRITERS, Graph, Outputs
from mtlkit.run.trained import TrainedModel

FORMATS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}  #: and the packages that they need
#: Largest allowed difference, as a share of the task's largest number. The same float32 sums in another order gave 5e-8
#: to 8e-6 with five networks (CNN and ViT, six decoders). A missing rotation or normalisation gives 1e-2 and more.
TOLERANCE = 1e-4
#: The same for class numbers: a share of them. Where two classes are equal up to rounding, either may win.
CLASSES_TOLERANCE = 1e-3


def check_export(out: Path, format_: str | None = None) -> None:
    """Checks what can be checked before a model is loaded.

    Raises:
        FileExistsError: the file exists.
        OSError: its folder does not exist or cannot be written.
        ValueError: the format is unknown, or a package that it needs is not installed.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Remove it, or choose another file.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out} cannot be written: there is no folder {out.parent}.")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"{out} cannot be written: the folder {out.parent} is read-only.")
    try:
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:  # root may write anywhere but in /proc, on a full disk and so on
        raise OSError(f"{out} cannot be written: no file can be made in {out.parent} ({error.strerror}).") from error
    absent = [name for name in FORMATS.get(format_ or "", ()) if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"--format {format_} needs {' and '.join(absent)}. Call: pip install 'mtlkit[export]'")


@dataclass(frozen=True)
class Exported:
    """How an exported program was checked.

    Attributes:
        differences: by task, how much it differs from the model (see `difference`), and the limit.
        images: what it was checked on, in words.
        why_not: why these are not images of the run's validation data, if they should have been.
    """

    differences: dict[str, tuple[float, float]]
    images: str
    why_not: str


def export_model(
    model: TrainedModel, out: Path, format_: str, *, dynamic_size: bool = False, check: Sequence[Path] = ()
) -> Exported:
    """Writes the file.

    The graph computes in float32, whatever the precision of the run was. The number of images in a batch is free. Their
    size is `model.size`, or free with `dynamic_size`. Before the file gets its name, the program is run on images of
    the run's validation data, or on the first images of `check` (files and folders). If the data cannot be opened, it
    runs on random images, and the result and the metadata say so. Nothing is written if it differs from the model.

    Raises:
        ValueError: the network cannot be exported or takes no other size, the program differs from the model, or a file
            of `check` is no image.
        OSError: the file cannot be written, or an image of `check` is not there. `check_export` finds most of the
            errors of writing earlier.
    """
    check_export(out, format_)
    checked = find_check_images(model, check)
    network, balancer = deepcopy((model.predictor.model, model.predictor.balancer))
    merge_lora(network.encoder)
    network.channels_last = False  # who runs the program chooses a layout
    for part in filter(None, (network, balancer)):
        part.to("cpu", torch.float32)
        for tensor in (*part.parameters(), *part.buffers()):
            tensor.data = tensor.data.contiguous().clone()  # pt2 cannot hold a part of a larger tensor
    predictor = Predictor(network, model.tasks, balancer, torch.device("cpu"), "fp32")
    (width, height), channels = model.size, model.description.channels
    sizes = [(width, height)]
    if dynamic_size:
        sizes.append((2 * width, 3 * height))  # unequal factors, or width and height could be mistaken for each other
        try:
            network.encoder.check_size(*sizes[-1])
        except ValueError as error:
            raise ValueError(
                f"--dynamic-size: this network takes images of one size only. Leave it out: the program then takes "
                f"{width} x {height}, and who uses it resizes the images before. ({error})"
            ) from error
    example = predictor.predictions(torch.zeros(1, channels, height, width), {})
    text = json.dumps(metadata(model, example, dynamic_size=dynamic_size) | {"checked_on": checked.what})
    data, run = WRITERS[format_](Graph(predictor).eval(), (channels, height, width), dynamic_size, text)
    found = dict.fromkeys(predictor.tasks, 0.0)
    for wide, high in sizes:
        for image in checked.batches((wide, high)):
            expected = predictor.predictions(image, {})
            with _at_size(image, max(network.encoder.info.strides) if dynamic_size else 0):
                outputs = run(image)
            for name in predictor.tasks:
                found[name] = max(found[name], difference(outputs[name], expected[name]))
    tolerances = {name: tolerance_of(prediction) for name, prediction in example.items()}
    if wrong := [name for name, value in found.items() if not value <= tolerances[name]]:
        named = ", ".join(f"{name} {found[name]:.3g} (at most {tolerances[name]:g})" for name in wrong)
        raise ValueError(f"The exported program differs from the model: {named}. Nothing was written.")
    write_whole(out, data)
    differences = {name: (value, tolerances[name]) for name, value in found.items()}
    return Exported(differences, checked.what, checked.why_not)


@contextmanager
def _at_size(image: Tensor, stride: int) -> Iterator[None]:
    """Adds the size of the images to an error of the exported program. `stride`: the size is free, and in which steps.

    A network may have one path for multiples of its stride and another for other sizes. A program has one path.
    """
    try:
        yield
    except ValueError as error:
        hint = (
            " This network works in another way at this size than at that of the training. Leave out --dynamic-size, "
            f"or train with a data.size in multiples of {stride} (the largest stride of the encoder) above {stride}."
        )
        count, _, height, width = image.shape
        raise ValueError(
            f"{error}. (For {count} images of {width} x {height}.) Nothing was written.{hint if stride else ''}"
        ) from error


def difference(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference as a share of the largest number or, for class numbers, how many differ, a share.

    >>> difference(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])), difference(torch.tensor([1]), torch.tensor([2]))
    (0.2, 1.0)
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return float((found != expected).double().mean())
    largest = float(expected.double().abs().max())
    gap = float((found.double() - expected.double()).abs().max())
    return gap / largest if gap else 0.0


def tolerance_of(prediction: Tensor) -> float:
    """Returns the largest `difference` that rounding explains."""
    return TOLERANCE if prediction.is_floating_point() else CLASSES_TOLERANCE


def metadata(model: TrainedModel, predictions: Outputs, *, dynamic_size: bool) -> dict[str, Any]:
    """Returns what the file says about itself: input, outputs (classes, units, frame), balancer, origin."""
    (width, height), channels, config = model.size, model.description.channels, model.config
    outputs = {}
    for name, task in model.tasks.items():
        found = predictions[name]
        outputs[name] = {
            "type": config.task[name].type,
            "kind": model.description.targets[name].type,
            "dimensions": found.ndim,
            "dtype": str(found.dtype).removeprefix("torch."),
            "classes": list(task.classes),
            "unit": task.unit,
            "frame": task.kind.frame if task.kind else "",
        }
        if not found.is_floating_point():
            outputs[name]["values"] = "the number of a class in `classes`, from 0"
        elif task.classes:
            outputs[name]["values"] = "one number for each of `classes`, along axis 1"
    adapters = config.balancer is not None
    return {
        "mtlkit": importlib.metadata.version("mtlkit"),
        "input": {
            "name": "image",
            "shape": ["batch", channels, *(("height", "width") if dynamic_size else (height, width))],
            "range": [0, 1],
            "colours": "RGB" if channels == 3 else None,
            "normalisation": "in the graph",
            "resizing": model.description.resizing,
            "trained_size": {"width": width, "height": height},
        },
        "outputs": outputs,
        "balancer": {"name": config.balancer.name if config.balancer else None, "adapters_in_graph": adapters},
        "precision": "float32",
        "precision_of_run": config.trainer.precision,
        "checkpoint": model.checkpoint.name.removesuffix(".old"),
        "step": step_of(model.checkpoint),
    }


def export_encoder(model: TrainedModel, out: Path) -> str:
    """Writes the weights of the encoder as safetensors. Returns whose names they have, in words.

    Raises `OSError` if the file cannot be written, and `FileExistsError` if it exists.
    """
    check_export(out)
    encoder = deepcopy(model.predictor.model.encoder)
    merge_lora(encoder)
    weights, names = encoder.portable_weights()
    about = {"encoder": model.config.model.encoder, "names": names, "mtlkit": importlib.metadata.version("mtlkit")}
    # Copies: safetensors refuses tensors that share memory, such as tied weights.
    write_whole(out, save({name: value.cpu().contiguous().clone() for name, value in weights.items()}, about))
    return names
