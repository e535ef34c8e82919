"""The fourth question of the page, "How was it trained?": curves, costs, the environment and the protocol."""

from html import escape
from statistics import median
from typing import Any

import numpy as np

from mtlkit.page.look import COLOURS
from mtlkit.page.parts import paragraph, section
from mtlkit.report.colours import rows
from mtlkit.report.helped import FEW
from mtlkit.report.history import History, Series
from mtlkit.report.html import facts
from mtlkit.report.plot import POINTS, Line, coloured, panel, panels
from mtlkit.report.table import ARROWS, metric_text
from mtlkit.report.worked import main_rows
from mtlkit.waits import in_words, shares

SLIDER = (
    '<p class="smoothing"><label>Smoothing <input id="smoothing" type="range" min="0" max="0.98" step="0.02" value="0">'
    "</label> <output>none</output></p>"
)


def trained(history: History) -> str:
    """Returns the section."""
    note = (
        "Point at a figure, or reach it with the Tab key and use the arrow keys, to read its values. Curves with more "
        f"than {POINTS} logged steps show the means of neighbours. Smoothing draws noisy curves as moving averages and "
        "leaves the values as they are."
    )
    parts = (
        ("Figures on validation data", _metrics(history)),
        ("Losses", _losses(history)),
        ("Learning rate and speed", _speed(history)),
    )
    body = "".join(f"<h3>{title}</h3>{drawn}" for title, drawn in parts if drawn)
    curves = f"{paragraph(note)}{SLIDER}{body}" if body else ""
    return section("How was it trained?", "", curves + _costs(history) + _texts(history))


def _metrics(history: History) -> str:
    found = [row for row in history.rows() if row.higher is not None]
    series = history.series("val", [f"{row.task}/{row.metric}" for row in found])
    if len(history.tasks) > FEW:
        chosen = main_rows(found)
        better = {row.task: bool(row.higher) for row in chosen}
        values = {row.task: series[key] for row in chosen if (key := f"{row.task}/{row.metric}") in series}
        return panels([rows("First metric of each task", values, better=better, scaled=True)] if values else [])
    figures = []
    for row in found:
        one = series.get(f"{row.task}/{row.metric}")
        if one is not None:
            line = Line(row.metric, one, _colour(history, row.task))
            level, mark = ("constant", row.constant), history.trained.get("step")
            direction = f"{ARROWS[row.higher]} better"
            figures.append(panel(f"{row.task}: {metric_text(row)}", [line], level=level, mark=mark, better=direction))
    note = (
        "Dashed: the best constant prediction. Ring: the model whose figures the page shows. The untrained start, at "
        "step 0, may lie outside of a figure."
    )
    return paragraph(note) + panels(figures) if any(figures) else ""


def _losses(history: History) -> str:
    keys = {f"loss/{task}": task for task in history.tasks}
    train, val = history.series("train", keys), history.series("val", keys)
    if len(history.tasks) > FEW:
        named = (
            (title, {keys[key]: one for key, one in series.items()})
            for title, series in (("Training", train), ("Validation", val))
        )
        return panels(rows(f"{title} loss of each task", series) for title, series in named if series)
    figures = []
    for key, task in keys.items():
        lines = [Line("training", train[key], _colour(history, task), noisy=True)] if key in train else []
        lines += [Line("validation", val[key], _colour(history, task))] if key in val else []
        figures.append(panel(task, lines) if lines else "")
    return paragraph("Thin: training. With dots: validation.") + panels(figures) if any(figures) else ""


def _speed(history: History) -> str:
    rates = {key.split("/", 1)[1]: one for key, one in history.series("train", history.keys("lr")).items()}
    figures = [panel("Learning rate", coloured(rates, noisy=False), labels=True)] if rates else []
    times = history.series("train", ["step_time"]).get("step_time")
    if times is not None:
        batch = _batch(history)
        line = Line("samples per second", (times[0], _per_second(times, batch)), "c0", noisy=True)
        figures.append(panel(f"Samples per second, batches of {batch}", [line]) if batch else "")
    return panels(figures)


def _per_second(times: Series, batch: int) -> np.ndarray:
    seconds = times[1]
    return np.divide(batch, seconds, out=np.full_like(seconds, np.nan), where=seconds > 0)


def _batch(history: History) -> int:
    return history.info.get("batch_size") or 0  # a run of an earlier version did not log it


#: What `data.augment_on` did, in words. The results are the same up to interpolation, so a reader of figures must know.
AUGMENTED = {
    "device": "whole batches on the device (data.augment_on=device)",
    "loader": "in the loading processes (data.augment_on=loader)",
}


def _costs(history: History) -> str:
    """Says what the run cost and where it ran."""
    info = history.info
    times = [r["step_time"] for r in history.records if r["split"] == "train" and r.get("step_time") is not None]
    step = median(times) if times else None
    batch = _batch(history)
    total = info.get("total_steps")
    memory = info.get("peak_memory")
    named = {
        "Steps": f"{history.last_step} of {total}" if total else str(history.last_step),
        "Time": _duration(info.get("seconds")),
        "Median step": f"{1000 * step:.4g} ms" if step else "",
        "Waiting": f"{in_words(found)} of the time of a step" if (found := shares(history.records)) else "",
        "Samples per second": f"{batch / step:.4g} (batches of {batch})" if step and batch else "",
        "Peak memory": f"{memory / 2**20:,.0f} MiB ({info.get('memory_of', '')})"
        if isinstance(memory, int | float)
        else "",
        "Processes": str(info.get("processes", "")),
        "Device": str(info.get("device") or ""),
        "Precision": str(info.get("precision") or ""),
        "Augmentation": AUGMENTED.get(str(info.get("augment_on")), ""),
        "Started": str(info.get("started", "")).replace("T", " "),
        "Command": str(info.get("command") or ""),
        "Commit": _commit(info.get("commit") or {}),
        "Versions": ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items()),
    }
    return f"<h3>Costs and environment</h3>{facts(named)}"


def _commit(commit: dict[str, Any]) -> str:
    changed = {True: ", with changes that are not committed", False: "", None: ", changes unknown"}
    return f"{commit['hash']}{changed[commit.get('changed')]}" if commit.get("hash") else ""


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"


def _texts(history: History) -> str:
    """Says what the data and the model are, and gives the whole configuration."""
    body = ""
    info = history.info
    protocol = {"Protocol": str(info.get("protocol") or ""), "Preset": str(info.get("preset") or "")}
    protocol["Model of the figures"] = history.trained_text if history.trained else ""
    protocol["Best by"] = str(info.get("monitor_of") or "")
    body += f"<h3>Protocol</h3>{facts(protocol)}" if any(protocol.values()) else ""
    if lines := info.get("model"):
        body += "<h3>Model</h3>" + "".join(map(paragraph, lines))
    if "data" in info:
        body += "<h3>Data</h3>" + "".join(map(paragraph, history.data_in_words()))
    if history.config_text:
        body += f"<details class=long><summary>config.yaml</summary><pre>{escape(history.config_text)}</pre></details>"
    return body


def _colour(history: History, task: str) -> str:
    return f"c{history.tasks.index(task) % len(COLOURS)}"
