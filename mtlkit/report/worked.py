"""The first question of the page, "Did it work?": the answer, the table of figures, and figures of single classes."""

from collections.abc import Mapping, Sequence
from html import escape

from mtlkit.page.parts import scroll, section
from mtlkit.report.classes import classes
from mtlkit.report.explanation import number
from mtlkit.report.history import History, Row
from mtlkit.report.many import is_many
from mtlkit.report.table import decoders_text, gain_text, metric_text, remarkable, split_text

LISTED = 3  #: so many names of tasks are in the answer

Single = Mapping[str, float]  #: "<task>/<metric>" -> the figure of the task trained alone, same seed


def answer(history: History, single: Single) -> str:
    """Says in one or two sentences whether the model learned something."""
    judged = [row for row in main_rows(history.rows()) if row.gain is not None]
    if not judged:
        return "No evaluation of a trained model is logged yet."
    worse = [row.task for row in judged if (row.gain or 0) <= 0]
    count = len(judged)
    if not worse:
        subject = f"All {count} tasks predict" if count > 1 else f"{judged[0].task} predicts"
        words = f"{subject} better than the best constant prediction"
    elif len(worse) == count:
        subject = "No task predicts" if count > 1 else f"{judged[0].task} does not predict"
        words = f"{subject} better than the best constant prediction"
    else:
        words = f"{count - len(worse)} of {count} tasks predict better than the best constant prediction"
        words += f"; {_listed(worse)} {'do' if len(worse) > 1 else 'does'} not"
    ranked = sorted((row for row in judged if row.relative_gain is not None), key=lambda row: row.relative_gain or 0)
    if len(ranked) > 1:
        words += f". The gain is largest for {_gain(ranked[-1])} and smallest for {_gain(ranked[0])}"
    return f"{words}. {_against_single(judged, single)}".strip()


def _gain(row: Row) -> str:
    return f"{row.task} ({row.metric} {number(row.constant)} → {number(row.trained)}{_unit(row)})"


def _unit(row: Row) -> str:
    return f" {row.unit}" if row.unit and row.unit != "°" else row.unit


def _against_single(rows: Sequence[Row], single: Single) -> str:
    pairs = [(row, single[_key(row)]) for row in rows if row.trained is not None and _key(row) in single]
    if not pairs:
        return ""
    better = sum((row.trained > alone) == row.higher for row, alone in pairs if row.trained not in (None, alone))
    return f"Trained alone with the same seed, {len(pairs) - better} of {len(pairs)} tasks are at least as good."


def _key(row: Row) -> str:
    return f"{row.task}/{row.metric}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns the row that stands for each task: its first metric that has a direction."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.higher is not None:
            found.setdefault(row.task, row)
    return list(found.values())


def worked(history: History, single: Single) -> str:
    """Returns the section."""
    rows = history.rows()
    if not rows:
        return section("Did it work?", " ".join(history.notes) or "No evaluation is logged yet.", "")
    metrics = dict.fromkeys(row.metric for row in main_rows(rows))
    note = [
        f"{split_text(history)} “Trained” is the model of the evaluation: {history.trained_text}.",
        "“Constant” is the best prediction that does not look at the image, “untrained” the model before training.",
        "“Alone” is the same task, trained without the others, with the same seed." if single else "",
        f"The sentence above judges each task by its first metric ({', '.join(metrics)})." if metrics else "",
        "This is one run: only several seeds tell whether a difference is more than noise (`mtlkit compare`).",
        decoders_text(history),
        *history.notes,
    ]
    body = _many(history, rows, single) if is_many(history.tasks) else _table(rows, single)
    return section("Did it work?", " ".join(filter(None, note)), body + classes(history))


def _many(history: History, rows: Sequence[Row], single: Single) -> str:
    """Shows the means over the tasks, the tasks that stand out, and all rows in a closed box."""
    titles = {
        "mean": "Means over the tasks that have all figures",
        "best": "The best tasks",
        "worst": "The worst tasks",
        "changed": "The tasks that changed most",
    }
    groups = remarkable(history)
    shown = "".join(
        f"<h3>{titles[group]}</h3>{_table(found, single, by_task=group == 'mean')}" for group, found in groups.items()
    )
    tasks = len({row.task for row in rows})
    whole = f"<summary>All {tasks} tasks<small> ({len(rows)} rows)</small></summary>{_table(rows, single)}"
    return f"{shown}<details class=long>{whole}</details>"


def _table(rows: Sequence[Row], single: Single, *, by_task: bool = True) -> str:
    """Returns the table. `by_task` gives each task a heading row above its metrics, so that the figures fit a phone."""
    heads = ["trained", "vs constant", *(["alone"] if single else []), "constant", "untrained"]
    columns = "".join(f'<th scope=col class="n">{escape(text)}' for text in heads)
    body, task = "", None
    for row in rows:
        if by_task and row.task != task:
            body += f'<tr class=task><th scope=rowgroup colspan="{len(heads) + 1}">{escape(row.task)}'
            task = row.task
        name = metric_text(row) if by_task else f"{row.task}: {metric_text(row)}"
        gain = row.gain or 0
        alone = [number(single.get(_key(row)))] if single else []
        numbers = [*alone, number(row.constant), number(row.untrained)]
        body += (
            f"<tr><th scope=row>{escape(name)}<td class=n><b>{number(row.trained)}</b>"
            f'<td class="n {"good" if gain > 0 else "bad" if gain < 0 else ""}">{gain_text(row)}'
            + "".join(f"<td class=n>{text}" for text in numbers)
        )
    table = f"<table class=figures><thead><tr><th scope=col>metric{columns}<tbody>{body}</table>"
    return scroll(table, "Figures of the trained model")
