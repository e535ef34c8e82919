"""Writes the report page of a run: one HTML file that needs no other file. It answers four questions, in this order:

did it work, what does it predict, did the tasks help or hurt each other, and how was it trained.
"""

import importlib.resources
from collections.abc import Mapping
from html import escape
from pathlib import Path

from mtlkit.files import write_whole
from mtlkit.page.parts import scroll
from mtlkit.page.style import document
from mtlkit.report.helped import helped
from mtlkit.report.history import History
from mtlkit.report.predicted import predicted
from mtlkit.report.style import STYLE
from mtlkit.report.table import ended_text
from mtlkit.report.trained import trained
from mtlkit.report.worked import answer, worked


def write_report(
    run: Path, single: Mapping[str, float] | None = None, ending: Mapping[str, object] | None = None
) -> Path:
    """Writes `RUN/report.html` from the files of the run's folder and returns its path. The run may be unfinished.

    It reads metrics.jsonl and, if they exist, config.yaml, details.json and pictures/. `single` has the figures of the
    same tasks trained alone, by "<task>/<metric>", where they are known.
    `ending` has facts of the last record of the log, where the log does not hold it yet. Raises `FileNotFoundError` for
    a folder without a log, and `ValueError` for a file that cannot be read.
    """
    history = History(run)
    history.info.update(ending or {})
    alone = single or {}
    body = (
        _header(history, alone),
        worked(history, alone),
        predicted(history),
        helped(history),
        trained(history),
        f"<script>{_script()}</script>",
    )
    path = run / "report.html"
    write_whole(path, document(escape(_title(history)), STYLE, "".join(body)).encode())
    return path


def _header(history: History, single: Mapping[str, float]) -> str:
    config, info = history.config, history.info
    encoder = _name((config.get("model") or {}).get("encoder"))
    seed = config.get("seed")
    named = (
        _name(config.get("balancer")),
        f"{len(history.tasks)} tasks" if len(history.tasks) != 1 else f"one task, {history.tasks[0]}",
        encoder,
        f"data {_name(config.get('data'))}" if _name(config.get("data")) else "",
        f"seed {seed}" if seed is not None else "",
        *(f"{key} {info[key]}" for key in ("protocol", "preset") if info.get(key)),
    )
    ended = ended_text(history) or f"not finished, at step {history.last_step}"
    links = (
        ("did-it-work", "Did it work?"),
        ("what-does-it-predict", "What does it predict?"),
        ("did-the-tasks-help-or-hurt-each-other", "Did the tasks help or hurt each other?"),
        ("how-was-it-trained", "How was it trained?"),
    )
    nav = "".join(f'<a href="#{place}">{title}</a>' for place, title in links)
    return (
        f"<header><h1>{escape(_title(history))}</h1>"
        f"<p class=kind>{escape(' · '.join(filter(None, named)))}</p>"
        f'<p class="answer">{escape(answer(history, single))}</p>'
        f"<p class=kind>{escape(ended[:1].upper() + ended[1:])}</p>"
        f"{_incidents(history)}<nav>{nav}</nav></header>\n"
    )


def _title(history: History) -> str:
    return str(history.config.get("experiment") or history.run.resolve().name)


def _incidents(history: History) -> str:
    items = ""
    for text, times in history.incidents():
        more = f" (and {times.often - 1} more, the last at step {times.last})" if times.often > 1 else ""
        items += f"<li>step {times.first}: {escape(text)}{more}"
    if not items:
        return ""
    return f'<div class="warning">{scroll(f"<b>Incidents</b><ul>{items}</ul>", "Incidents")}</div>'


def _script() -> str:
    return importlib.resources.files("mtlkit.report").joinpath("page.js").read_text(encoding="utf-8")


def _name(value: object) -> str:
    """Returns the name that chooses a part of the configuration, or the names of several data sets."""
    if isinstance(value, dict):
        parts = value.get("concat")
        return " + ".join(_name(part) for part in parts) if parts else str(value.get("name", ""))
    return "" if value is None else str(value)
