"""Writes the report page of a run: one HTML file that needs no other file."""

import base64
import io
from collections.abc import Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import median

from PIL import Image

from mtlkit.data.pictures import read_picture
from mtlkit.files import write_whole
from mtlkit.log import class_tables
from mtlkit.report import curves
from mtlkit.report.balance import conflicts, direction
from mtlkit.report.history import History
from mtlkit.report.html import figure, grid, section, table
from mtlkit.report.pictures import KINDS, pictured_tasks, saved_pictures
from mtlkit.report.table import decoders_text, gain_text, headings, metric_text, split_text, value_text

MAX_PICTURES = 12  #: the largest number of tasks with a picture per sample
PICTURE_SIDE = 240  #: in pixels; larger pictures are reduced to this size

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667; --paper: #fff; --rule: #8884;
  --good: #1a7f37; --bad: #c4292b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #d8dce6; --soft: #99a; --paper: #15181e; --good: #4ac26b; --bad: #ff7b72 } }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif }
h1 { margin-bottom: 0 } h2 { margin: 2.5rem 0 .3rem; border-bottom: 1px solid var(--rule) }
p { margin: .3rem 0 1rem } p, figcaption small, dt { color: var(--soft) }
dl { display: flex; flex-wrap: wrap; gap: .3rem 2rem } dd { margin: 0 }
.scroll { overflow: auto; max-height: 36rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; white-space: nowrap }
th { border-bottom: 1px solid var(--rule); position: sticky; top: 0; background: var(--paper) }
.n { text-align: right; font-variant-numeric: tabular-nums } .good { color: var(--good) } .bad { color: var(--bad) }
tr.first td { border-top: 1px solid var(--rule) }
th.heat, td.heat { text-align: center; padding: .15rem .7rem } td.heat small { display: block; color: var(--soft) }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: .6rem 1rem }
figure { margin: 0 } .grid + figure, .scroll + figure { margin-top: 1.2rem }
figcaption { font-weight: 600; font-size: .9rem } svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, sans-serif !important } .map svg { width: auto; max-width: 100% }
.sample { display: flex; flex-wrap: wrap; gap: .6rem; margin-bottom: 1.2rem }
.sample figure { width: 10.5rem } .sample small { display: block; font-weight: 400 }
.sample img { width: 100%; display: block } img.small { image-rendering: pixelated }
pre { overflow: auto; font-size: .85rem }
"""


def write_report(run: Path, single: Mapping[str, float] | None = None) -> Path:
    """Writes `RUN/report.html` from the files of the run's folder and returns its path. The run may be unfinished.

    It reads metrics.jsonl and, if they exist, config.yaml and pictures/ (see `save_pictures`). Raises
    `FileNotFoundError` for a folder without a log, and `ValueError` for a log or configuration that cannot be read.
    """
    history = History(run)
    sections = (
        _table(history),
        _classes(history),
        _incidents(history),
        _pictures(history),
        _metrics(history),
        _losses(history),
        _by_task(
            history,
            "weight",
            "Task weights",
            "The factor by which the balancer multiplies each task's gradient or loss.",
        ),
        _by_task(history, "grad_norm", "Gradient norms", "The length of each task's gradient, before balancing."),
        conflicts(history),
        direction(history),
        _by_task(history, "lr", "Learning rates", ""),
        _model(history),
        _data(history),
        _config(history),
    )
    title = escape(f"{history.config.get('experiment', run.resolve().name)} – mtlkit")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n{_header(history)}\n"
        f"{''.join(sections)}</body></html>\n"
    )
    path = run / "report.html"
    write_whole(path, page.encode())
    return path


def _header(history: History) -> str:
    config, info = history.config, history.info
    named = {key: _name(config.get(key)) for key in ("experiment", "balancer", "seed", "data")}
    named |= {key: str(info.get(key) or "") for key in ("protocol", "preset")}
    named["encoder"] = _name((config.get("model") or {}).get("encoder"))
    total = info.get("total_steps")
    named["steps"] = f"{history.last_step} of {total}" if total else str(history.last_step)
    times = [r["step_time"] for r in history.records if r["split"] == "train" and r.get("step_time") is not None]
    named["median step"] = f"{1000 * median(times):.4g} ms" if times else ""
    named["started"] = str(info.get("started", "")).replace("T", " ")
    named |= info.get("versions", {})
    facts = "".join(f"<div><dt>{escape(key)}<dd>{escape(str(value))}</div>" for key, value in named.items() if value)
    written = datetime.now().astimezone().isoformat(" ", "seconds")
    name = escape(str(config.get("experiment", "Run")))
    note = f"{history.run.resolve()}, report of {written}. Curves with more than {curves.POINTS} points show means."
    return f"<h1>{name}</h1><p>{escape(note)}</p><dl>{facts}</dl>"


def _table(history: History) -> str:
    rows, task = [], None
    for row in history.rows():
        gain = row.gain or 0
        style = "good" if gain > 0 else "bad" if gain < 0 else ""
        numbers = "".join(f'<td class="n">{value_text(value)}' for value in (row.constant, row.untrained, row.trained))
        name = escape(row.task) if row.task != task else ""
        rows.append(
            f"<tr{' class=first' if name else ''}><td>{name}<td>{escape(metric_text(row))}{numbers}"
            f'<td class="n {style}">{gain_text(row)}'
        )
        task = row.task
    if not rows:
        return section("Results", " ".join(history.notes) or "No evaluation is logged yet.", "")
    head = "".join(f'<th class="n">{escape(text)}' for text in headings(history))
    body = f'<div class="scroll"><table><thead><tr><th>task<th>metric{head}<tbody>{"".join(rows)}</table></div>'
    note = " ".join(
        [
            split_text(history),
            "“Constant” is the best prediction that does not look at the image.",
            decoders_text(history),
            *history.notes,
        ]
    )
    return section("Results", note, body)


def _classes(history: History) -> str:
    body = ""
    for task, (metrics, classes) in class_tables(history.trained).items():
        rows = [[label, *map(value_text, values)] for label, values in classes.items()]
        body += f"<h3>{escape(task)}</h3>{table(['class', *metrics], rows)}"
    note = f"Figures of single classes: {history.trained_text}. –: the class does not occur."
    return section("Classes", note, body) if body else ""


def _incidents(history: History) -> str:
    items = ""
    for text, times in history.incidents():
        more = f" (and {times.often - 1} more, the last at step {times.last})" if times.often > 1 else ""
        items += f"<li>step {times.first}: {escape(text)}{more}"
    return section("Incidents", "", f'<ul class="scroll">{items}</ul>') if items else ""


def _metrics(history: History) -> str:
    rows = history.rows()
    series = history.series("val", [f"{row.task}/{row.metric}" for row in rows])
    figures = []
    for row in rows:
        key = f"{row.task}/{row.metric}"
        if key in series:
            options = {"color": _color(history, row.task), "marker": ".", "markersize": 4}
            levels = {"--": row.constant, ":": row.untrained}
            plot = curves.panel([(series[key], options)], levels, history.trained.get("step"))
            figures.append(figure(f"{row.task} {metric_text(row)}", plot))
    note = "Validation. Dashed: the constant prediction. Dotted: the untrained start. Large dot: the table's model."
    return section("Metrics", note, grid(figures))


def _losses(history: History) -> str:
    keys = [f"loss/{task}" for task in history.tasks]
    train, val = history.series("train", keys), history.series("val", keys)
    figures = []
    for task, key in zip(history.tasks, keys, strict=True):
        color = _color(history, task)
        parts = [(train[key], {"color": color, "alpha": 0.5, "linewidth": 0.9})] if key in train else []
        parts += [(val[key], {"color": color, "marker": ".", "markersize": 5})] if key in val else []
        if parts:
            figures.append(figure(task, curves.panel(parts)))
    return section("Losses", "Thin: training. With dots: validation.", grid(figures))


def _by_task(history: History, prefix: str, title: str, note: str) -> str:
    series = history.series("train", history.keys(prefix))
    named = {key.removeprefix(f"{prefix}/"): values for key, values in series.items()}
    return section(title, note, figure("", curves.lines(named, title.lower()))) if named else ""


def _pictures(history: History) -> str:
    samples = saved_pictures(history.run)
    tasks = pictured_tasks(samples, history.tasks)
    blocks = []
    for sample in samples:
        cards = [_card("image", [("", sample["image"])])] if "image" in sample else []
        for task in tasks[:MAX_PICTURES]:
            pair = [(kind, sample[f"{task}_{kind}"]) for kind in KINDS if f"{task}_{kind}" in sample]
            cards += [_card(task, pair)] if pair else []
        blocks.append(f'<div class="sample">{"".join(cards)}</div>')
    more = f"{len(tasks) - MAX_PICTURES} more tasks are in pictures/." if len(tasks) > MAX_PICTURES else ""
    split = "test" if history.selects_on_test else "validation"
    return section("Predictions", f"On samples of the {split} split. {more}", "".join(blocks)) if blocks else ""


def _card(title: str, pictures: list[tuple[str, Path]]) -> str:
    images = "".join(f"<small>{kind}</small>{_image(path, f'{title} {kind}')}" for kind, path in pictures)
    return f"<figure><figcaption>{escape(title)}</figcaption>{images}</figure>"


def _image(path: Path, text: str) -> str:
    """Returns an <img> with the exact picture if it is small, otherwise reduced, as the shorter of PNG and JPEG."""
    picture = Image.fromarray(read_picture(path))
    small = max(picture.size) <= PICTURE_SIDE
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = {kind: io.BytesIO() for kind in (("png",) if small else ("png", "jpeg"))}
    for kind, buffer in data.items():
        picture.save(buffer, kind, **({"quality": 90, "subsampling": 0} if kind == "jpeg" else {}))
    kind, buffer = min(data.items(), key=lambda item: len(item[1].getvalue()))
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img{" class=small" if small else ""} alt="{escape(text)}" src="data:image/{kind};base64,{encoded}">'


def _data(history: History) -> str:
    if "data" not in history.info:
        return ""
    first, *lines = history.data_in_words()
    return section("Data", f"{first}.", "".join(f"<p>{escape(line)}</p>" for line in lines))


def _model(history: History) -> str:
    lines = history.info.get("model") or ()
    return section("Model", "", "".join(f"<p>{escape(line)}</p>" for line in lines)) if lines else ""


def _config(history: History) -> str:
    if not history.config_text:
        return ""
    body = f"<details><summary>config.yaml</summary><pre>{escape(history.config_text)}</pre></details>"
    return section("Configuration", "", body)


def _color(history: History, task: str) -> str:
    return curves.COLORS[history.tasks.index(task) % len(curves.COLORS)]


def _name(value: object) -> str:
    """Returns the name that chooses a part of the configuration, or the names of several data sets."""
    if isinstance(value, dict):
        parts = value.get("concat")
        return " + ".join(_name(part) for part in parts) if parts else str(value.get("name", ""))
    return "" if value is None else str(value)
