"""The model card of a run: what the model does, how it was trained and measured, and who may use it."""

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from mtlkit.report.history import History
from mtlkit.report.table import decoders_text, gain_text, headings, metric_text, split_text, value_text
from mtlkit.run.checkpoint import step_of
from mtlkit.run.trained import TrainedModel


def model_card(run: Path, model: TrainedModel, repository: str, licence: str | None) -> str:
    """Returns the text of README.md, in Markdown, with the head that the Hugging Face hub reads."""
    history = History(run)
    config = history.config
    head = ModelCardData(
        license=licence, library_name="mtlkit", tags=["multi-task-learning", *dict.fromkeys(_types(model))]
    )
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {repository.rpartition('/')[2]}",
        f"One network for {len(model.tasks)} tasks, trained with "
        f"[mtlkit](https://pypi.org/project/mtlkit/) {importlib.metadata.version('mtlkit')}.",
        _table(("task", "type", "what it predicts", "unit"), _tasks(model)),
        "## Use it",
        "```python\nimport mtlkit\n\n"
        f'model = mtlkit.load("{repository}")\n'
        'predictions = model("photo.jpg")  # {task: tensor}, at the size of the photo\n```',
        _plugins(config.get("plugins") or []),
        "## Training",
        _table(("what", "value"), _training(history, model, config)),
        "## Figures",
        split_text(history) + " *Constant* is the best prediction that does not look at the image.",
        _table(
            ("task", "metric", *headings(history)),
            (
                (
                    row.task,
                    metric_text(row),
                    *map(value_text, (row.constant, row.untrained, row.trained)),
                    gain_text(row),
                )
                for row in history.rows()
            ),
        ),
        *history.notes,
        "## Licence",
        f"The model: {licence}."
        if licence
        else "Nobody has given this model a licence. Ask its owner before you use it.",
        f"The data: {_data(history).get('licence') or 'their terms of use are not known to mtlkit.'}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _types(model: TrainedModel) -> Iterable[str]:
    return (task.type for task in model.config.task.values())


def _tasks(model: TrainedModel) -> Iterable[Sequence[str]]:
    for name, task in model.tasks.items():
        yield name, model.config.task[name].type, ", ".join(task.classes) or "a value", task.unit


def _training(history: History, model: TrainedModel, config: dict[str, Any]) -> Iterable[Sequence[str]]:
    data, trained = config.get("data", {}), model.config
    sets = [part.get("name", "") for part in data.get("concat") or [data]]
    width, height = model.size
    yield "data", ", ".join(map(str, sets))
    if samples := _data(history).get("samples"):
        yield "samples", ", ".join(f"{count} {split}" for split, count in samples.items())
    channels = model.description.channels
    colours = {1: "1 channel", 3: "RGB"}.get(channels, f"{channels} channels")
    yield "images", f"{width} x {height}, {colours} in [0, 1]"
    yield "encoder", f"{trained.model.encoder}, pretrained: {trained.model.pretrained}"
    yield "balancer", str(config.get("balancer", {}).get("name", ""))
    yield "decoders", decoders_text(history)
    yield "protocol", str(config.get("protocol", ""))
    yield "validation", f"{data.get('validation', 'val')} split, selection: {trained.trainer.selection}"
    yield "seed", str(config.get("seed", ""))
    yield "step of the weights", str(step_of(model.checkpoint) or "not known")
    yield "started", str(history.info.get("started", ""))
    yield "versions", ", ".join(f"{name} {version}" for name, version in history.info.get("versions", {}).items())


def _plugins(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"It was trained with modules of its author's: {listed}. If `load` asks for one, get it and import it first."


def _data(history: History) -> dict[str, Any]:
    found: dict[str, Any] = history.info.get("data", {})
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
