"""The graph of an exported model, and how it becomes a file of ONNX or of `torch.export`."""

import io
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
    """What is exported: image (B, 3, H, W) in [0, 1] -> predictions by task.

    Every part is a module, so that its weights become constants of the graph. `None` as the balancer: no adapters.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.balancer, self.tasks = predictor.model, predictor.balancer, predictor.tasks

    def forward(self, image: Tensor) -> Outputs:
        outputs = self.model(image, self.balancer.adapt if isinstance(self.balancer, Balancer) else None)
        return {name: task.predict(outputs[name]) for name, task in self.tasks.items()}


def _onnx(graph: Graph, size: tuple[int, int], dynamic: bool, text: str) -> tuple[bytes, Run]:
    import onnxruntime

    names = list(graph.tasks)
    axes = {0: "batch"} | ({2: "height", 3: "width"} if dynamic else {})
    with _exporting("onnx"):
        program = torch.onnx.export(
            graph,
            (_example(size),),
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
        return dict(zip(names, map(torch.from_numpy, session.run(names, {"image": image.numpy()})), strict=True))

    return data, run


def _pt2(graph: Graph, size: tuple[int, int], dynamic: bool, text: str) -> tuple[bytes, Run]:
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic:
        axes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}  # some networks take multiples only
    with _exporting("pt2"):
        program = torch.export.export(graph, (_example(size),), dynamic_shapes={"image": axes})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{METADATA}.json": text})
    module = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), torch.no_grad()(module.forward)


@contextmanager
def _exporting(format_: str) -> Iterator[None]:
    """Turns an error of torch's exporter into a `ValueError`, and hides what torch says to its own developers."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
            yield
    except RuntimeError as error:
        raise ValueError(
            f"This network cannot be exported as {format_}. Torch says: {reason(error)}. Nothing was written."
        ) from error


def _example(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, size[1], size[0], generator=torch.Generator().manual_seed(0))


def reason(error: Exception) -> str:
    """Returns the first words of an error of torch, on one line."""
    return " ".join(str(error).split())[:300].rstrip(".")


#: By format: what makes the bytes of a file, with the text of its metadata, and reads them back as a function.
WRITERS: dict[str, Callable[[Graph, tuple[int, int], bool, str], tuple[bytes, Run]]] = {"onnx": _onnx, "pt2": _pt2}
