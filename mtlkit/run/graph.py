"""The graph of an exported model, and how it becomes a file of ONNX or of `torch.export`."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.balancer import Balancer
from mtlkit.engine.predictor import Predictor

METADATA = "mtlkit"  #: the key of the metadata in ONNX; in pt2 it is the file mtlkit.json

Outputs = dict[str, Tensor]
Run = Callable[[Tensor], Outputs]


class Graph(nn.Module):
    """What is exported: image (B, C, H, W) in [0, 1] -> predictions by task.

    Every part is a module, so that its weights become constants of the graph. `None` as the balancer: no adapters.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.balancer, self.tasks = predictor.model, predictor.balancer, predictor.tasks

    def forward(self, image: Tensor) -> Outputs:
        outputs = self.model(image, self.balancer.adapt if isinstance(self.balancer, Balancer) else None)
        return {name: task.predict(outputs[name]) for name, task in self.tasks.items()}


def _onnx(graph: Graph, shape: tuple[int, int, int], dynamic: bool, text: str) -> tuple[bytes, Run]:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = list(graph.tasks)
    axes = {0: "batch"} | ({2: "height", 3: "width"} if dynamic else {})
    refusals = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    with _exporting("onnx", *refusals):
        program = torch.onnx.export(
            graph,
            (_example(shape),),
            dynamo=True,
            dynamic_shapes={"image": axes},
            input_names=["image"],
            output_names=names,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA] = text
        data = program.model_proto.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Outputs:
        with _exporting("onnx", *refusals):
            found = session.run(names, {"image": image.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return data, run


def _pt2(graph: Graph, shape: tuple[int, int, int], dynamic: bool, text: str) -> tuple[bytes, Run]:
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic:
        axes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}  # some networks take multiples only
    with _exporting("pt2"):
        program = torch.export.export(graph, (_example(shape),), dynamic_shapes={"image": axes})
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={f"{METADATA}.json": text})
        module = torch.export.load(io.BytesIO(file.getvalue())).module()

    def run(image: Tensor) -> Outputs:
        with _exporting("pt2"):
            found: Outputs = module(image)
        return found

    return file.getvalue(), run


@contextmanager
def _exporting(format_: str, *refusals: type[Exception]) -> Iterator[None]:
    """Turns errors of an exporter and of its programs into a `ValueError`. Hides what torch tells its own developers.

    Torch raises a `RuntimeError`, and an `AssertionError` for an image of a size that the program does not take.
    """
    errors: tuple[type[Exception], ...] = (RuntimeError, AssertionError, *refusals)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
            yield
    except errors as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without the colours of a terminal
        reason = " ".join(plain.split())[:300].rstrip(".")
        raise ValueError(f"This network cannot become a program of the format {format_}: {reason}") from error


def _example(shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


#: By format: what makes the bytes of a file, with the text of its metadata, and reads them back as a function.
WRITERS: dict[str, Callable[[Graph, tuple[int, int, int], bool, str], tuple[bytes, Run]]] = {"onnx": _onnx, "pt2": _pt2}
