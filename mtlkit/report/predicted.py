"""The second question of the page, "What does it predict?": pictures and numbers of single samples, with legends."""

from collections.abc import Mapping
from html import escape

from mtlkit.legend import Classes, Legend
from mtlkit.page.parts import paragraph, section
from mtlkit.report.embedding import Embedder
from mtlkit.report.history import History
from mtlkit.report.pictures import pictured_tasks
from mtlkit.report.samples import Look, Numbers, Sample, look

MAX_TASKS = 12  #: the largest number of tasks of a sample with pictures, and of those with numbers
MAX_NAMES, MAX_CLASSES = 12, 3  #: the largest number of outputs of a task, or of its classes, shown per sample
KINDS = {"target": "ground truth", "prediction": "prediction", "error": "error"}
ROLES = {"spread": "Sample", "best": "Best", "worst": "Worst"}


def predicted(history: History) -> str:
    """Returns the section, or "" for a run without pictures."""
    found = look(history.run)
    if found is None or not found.samples:
        return ""
    tasks = pictured_tasks([sample.pictures for sample in found.samples], history.tasks)
    more = f"{len(tasks) - MAX_TASKS} more tasks are in pictures/." if len(tasks) > MAX_TASKS else ""
    split = "test" if history.selects_on_test else "validation"
    note = " ".join(filter(None, (f"On samples of the {split} split.", found.rule, more)))
    shown = tasks[:MAX_TASKS]
    embed = Embedder([path for sample in found.samples for path in sample.pictures.values()])
    blocks = "".join(_sample(sample, number, shown, history, embed) for number, sample in _numbered(found))
    return section("What does it predict?", note, _legends(found.legends, shown) + blocks)


def _numbered(found: Look) -> list[tuple[str, Sample]]:
    """Returns the samples with their titles. A number tells samples of one role apart."""
    titles = []
    for sample in found.samples:
        same = [one for one in found.samples if one.role == sample.role]
        place = next(i for i, one in enumerate(same, 1) if one is sample)
        titles.append((f"{ROLES[sample.role]} {place}" if len(same) > 1 else ROLES[sample.role], sample))
    return titles


def _sample(sample: Sample, title: str, tasks: list[str], history: History, embed: Embedder) -> str:
    first = _card("image", {"": "image"}, sample, "", embed) if "image" in sample.pictures else ""
    ordered = list(dict.fromkeys([*(task for task in history.tasks if task in sample.numbers), *sample.numbers]))
    first += "".join(_numbers(task, sample.numbers[task], _loss(sample, task)) for task in ordered[:MAX_TASKS])
    rest = len(ordered) - MAX_TASKS
    first += f"<p>{rest} more tasks are in pictures/samples.json.</p>" if rest > 0 else ""
    cards = f"<div>{first}</div>" if first and tasks else first
    for task in tasks:
        kinds = {text: f"{task}_{kind}" for kind, text in KINDS.items() if f"{task}_{kind}" in sample.pictures}
        cards += _card(task, kinds, sample, _loss(sample, task), embed) if kinds else ""
    label = f"<small> {escape(sample.label)}</small>" if sample.label else ""
    return f'<div class="sample"><h4>{title}{label}</h4><div class="cards">{cards}</div></div>'


def _loss(sample: Sample, task: str) -> str:
    return f"loss {sample.losses[task]:.3g}" if task in sample.losses else ""


def _card(task: str, kinds: Mapping[str, str], sample: Sample, note: str, embed: Embedder) -> str:
    images = "".join(
        f"<div>{f'<small>{kind}</small>' if kind else ''}{embed(sample.pictures[name], f'{task} {kind}'.strip())}</div>"
        for kind, name in kinds.items()
    )
    return f'<figure>{_caption(task, note)}<div class="kinds">{images}</div></figure>'


def _caption(task: str, note: str) -> str:
    return f"<figcaption>{escape(task)}{f'<small> {escape(note)}</small>' if note else ''}</figcaption>"


def _numbers(task: str, numbers: Numbers, note: str) -> str:
    """Shows the numbers of a task that has no picture. Those that matter come first: true ones and likely ones."""
    rows = list(zip(numbers.names, numbers.target, numbers.prediction, strict=True))
    parts_of_one = len(rows) > 1 and abs(sum(value or 0.0 for value in numbers.prediction) - 1) < 1e-3  # rounding
    most = MAX_CLASSES if parts_of_one else MAX_NAMES
    left = max(0, len(rows) - most)
    if left:
        rows = sorted(rows, key=lambda row: (-(row[1] or 0), -(row[2] or 0)))[:most]
    left += numbers.left_out
    share = all(value is None or 0 <= value <= 1 for row in rows for value in row[1:]) and not numbers.unit
    unit = f" {numbers.unit}" if numbers.unit else ""
    body = "".join(
        f"<tr><th scope=row>{escape(name)}<td class=n>{_target(target, share)}{_prediction(value, share, escape(unit))}"
        for name, target, value in rows
    )
    more = f"<small>{left} more</small>" if left else ""
    head = f"<tr><th scope=col><th scope=col class=n>truth<th scope=col class=n>prediction{escape(unit)}"
    table = f"<table class=values><thead>{head}<tbody>{body}</table>"
    return f"<figure>{_caption(task, note)}{table}{more}</figure>"


def _target(value: float | None, share: bool) -> str:
    if value is None:
        return "unknown"
    return {0.0: "no", 1.0: "yes"}.get(value, f"{value:.3g}") if share else f"{value:.4g}"


def _prediction(value: float | None, share: bool, unit: str) -> str:
    if value is None:
        return "<td class=n>not finite"
    return f'<td class="n bar" style="--part: {100 * value:.0f}%">{value:.2f}' if share else f"<td class=n>{value:.4g}"


def _legends(legends: Mapping[str, Legend], tasks: list[str]) -> str:
    """Shows what the colours of each task mean, and those of its error map."""
    items = ""
    for task in tasks:
        for key, title in ((task, task), (f"{task}_error", f"{task}, error")):
            if key in legends:
                items += f"<div><b>{escape(title)}</b> {_legend(legends[key])}</div>"
    return f'<div class="legends">{items}</div>' if items else ""


def _legend(legend: Legend) -> str:
    if isinstance(legend, str):
        return paragraph(legend)
    if isinstance(legend, Classes):
        swatches = (f'<li><i style="background: {colour}"></i>{escape(name)}' for name, colour in legend.colours)
        return f'<ul class="swatches">{"".join(swatches)}</ul>'
    unit = f" {escape(legend.unit)}" if legend.unit else ""
    ramp = f'<i style="background: linear-gradient(to right, {", ".join([*legend.colours, legend.colours[-1]])})"></i>'
    note = paragraph(legend.note) if legend.note else ""
    return f'<div class="ramp">{legend.low:.3g}{unit}{ramp}{legend.high:.3g}{unit}</div>{note}'
