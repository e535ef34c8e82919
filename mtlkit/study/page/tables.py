"""The tables of the page: results, paired differences to the reference, and delta-m in all definitions."""

from collections.abc import Callable, Iterator
from html import escape

from mtlkit.page.parts import Cell, Numbers, scroll, section
from mtlkit.report.table import ARROWS
from mtlkit.study.delta_m import Result
from mtlkit.study.gains import all_deltas, worse
from mtlkit.study.numbers import NONE
from mtlkit.study.outcome import Metric
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import decimals_of, number, p_text
from mtlkit.study.statistics import LEVEL, Summary

MIB = 2**20


def results(found: Findings) -> str:
    """Returns the table of all figures: methods down, metrics across."""
    comparison = found.comparison
    intervals = any(one.half is not None for _, _, one in _summaries(found))
    legend = (
        "Mean over seeds ± half of the 95 % t interval. <b>Bold</b>: the best mean. <u>Underlined</u>: within noise of "
        "it (the interval of the paired difference holds 0)."
        if intervals
        else "Mean over seeds. Too few seeds for intervals. <b>Bold</b>: the best mean."
    )
    legend = f'<p class="legend">{legend} ↑ higher is better, ↓ lower is better.</p>'
    columns = [_metric_cells(found, metric) for metric in comparison.metrics]
    columns += [_column(head, cell, comparison.rows) for head, cell in _more_columns(found)]
    heads, cells = [head for head, _ in columns], [column for _, column in columns]
    table = _table(found, heads, {row: "".join(column[row] for column in cells) for row in comparison.rows}, "summary")
    return section("Results", "", f"{legend}{table}{_definition(found)}{_summary_numbers(found).link()}")


def _metric_cells(found: Findings, metric: Metric) -> tuple[str, dict[str, str]]:
    comparison = found.comparison
    all_of = {row: comparison.summary(row, metric.key) for row in comparison.rows}
    decimals = decimals_of(one.mean for one in all_of.values() if one)
    best, near = comparison.best(metric)
    cells = {}
    for row, one in all_of.items():
        tag = "b" if row == best else "u" if row in near else "span"
        cells[row] = f"<td class=n>{_figure(one, decimals, tag, len(comparison.seeds))}"
    return f"{escape(metric.name)}{_unit(metric)} {ARROWS[metric.higher]}", cells


def _figure(one: Summary | None, decimals: int, tag: str, seeds: int) -> str:
    """Returns mean, half width, and the number of seeds if some are missing."""
    if one is None:
        return NONE
    half = f"± {number(one.half, decimals)}" if one.half is not None else ""
    count = f"n = {one.n}" if one.n < seeds else ""
    small = " ".join(filter(None, (half, count)))
    return f"<{tag}>{number(one.mean, decimals)}</{tag}>{f'<small>{small}</small>' if small else ''}"


def _more_columns(found: Findings) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yields the columns behind the metrics: the head, and the content of the cell of a row."""
    comparison = found.comparison
    yield f"Δm <i>(%)</i> {'↓' if found.sign < 0 else '↑'}", lambda row: _delta_cell(found, row)
    yield "mean rank ↓", lambda row: number(found.ranks.mean.get(row), 2)
    yield (
        "tasks worse",
        lambda row: NONE if row == comparison.base_of(row) else "{} <i>of {}</i>".format(*worse(comparison, row)),
    )
    times = {row: one.mean for row, one in found.times.items() if one}
    decimals = decimals_of(1000 * value for value in times.values())
    yield "step time <i>(ms)</i> ↓", lambda row: number(1000 * times[row] if row in times else None, decimals)
    memories = {row: one.mean for row, one in found.memories.items() if one}
    yield "memory <i>(MiB)</i> ↓", lambda row: number(memories[row] / MIB if row in memories else None, 0)


def _column(head: str, cell: Callable[[str], str], rows: list[str]) -> tuple[str, dict[str, str]]:
    return head, {row: f"<td class=n>{cell(row)}" for row in rows}


def _delta_cell(found: Findings, row: str) -> str:
    result = found.deltas[row]
    if row == found.comparison.base_of(row) or isinstance(result, str):
        return NONE
    one = found.delta(row)
    half = f"<small>± {number(one.half, 2)}</small>" if one and one.half is not None else ""
    best, near = found.best_delta()
    tag = "b" if row == best else "u" if row in near else "span"
    return f"<{tag}>{number(result.value, 2, sign=True)}</{tag}>{half}"


def _definition(found: Findings) -> str:
    """Says how delta-m is defined here, or why a row has none, and what the other columns count."""
    results = {row: one for row, one in found.deltas.items() if row != found.comparison.base_of(row)}
    lines = dict.fromkeys(f"Δm: {one.definition}." for one in results.values() if isinstance(one, Result))
    lines |= dict.fromkeys(f"No Δm of {row}. {one}" for row, one in results.items() if isinstance(one, str))
    cost = "Step time and memory: means over seeds"
    if found.comparison.singles:
        cost += "; of single-task training the sum of the step times over tasks, and the memory of the largest task"
    lines[f"Tasks worse: than {found.comparison.base}, by their mean gain. {cost}."] = None
    return "".join(f'<p class="legend">{escape(line)}</p>' for line in lines)


def _unit(metric: Metric) -> str:
    return f" <i>({escape(metric.unit)})</i>" if metric.unit else ""


def _table(found: Findings, heads: list[str], bodies: dict[str, str], name: str) -> str:
    """Joins heads and rows to a table. The metrics of a task stand below its name."""
    metrics = found.comparison.metrics
    counts = {task: sum(metric.task == task for metric in metrics) for task in found.comparison.tasks}
    groups = "".join(
        f'<th scope=colgroup class="{"group" if count > 1 else "n"}" colspan={count}>{escape(task)}'
        for task, count in counts.items()
    )
    rest = len(heads) - len(metrics)
    groups += f"<th colspan={rest}>" if rest else ""
    second = "".join(f"<th scope=col class=n>{head}" for head in heads)
    rows = "".join(
        f"<tr{' class=base' if row in found.comparison.singles else ''}><th scope=row>{_marked(found, row)}{body}"
        for row, body in bodies.items()
    )
    head = f"<tr><th>{groups}<tr><th scope=col>method{second}"
    return scroll(f'<table class="main" data-name="{name}"><thead>{head}<tbody>{rows}</table>', name)


def _marked(found: Findings, row: str) -> str:
    mark = found.looks[row].marker(6, 6)
    return (
        f'<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">{mark}</svg><span class="name">{escape(row)}</span>'
    )


def _summaries(found: Findings) -> Iterator[tuple[str, Metric, Summary]]:
    for row in found.comparison.rows:
        for metric in found.comparison.metrics:
            if one := found.comparison.summary(row, metric.key):
                yield row, metric, one


def _summary_numbers(found: Findings) -> Numbers:
    head = ("method", "metric", "unit", "higher_is_better", "mean", "low", "high", "seeds")
    rows: list[list[Cell]] = [
        [row, metric.key, metric.unit, int(metric.higher), one.mean, one.low, one.high, one.n]
        for row, metric, one in _summaries(found)
    ]
    for row in found.gaining:
        if one := found.delta(row):
            rows.append([row, "delta_m", "%, positive is better", 1, one.mean, one.low, one.high, one.n])
    return Numbers("results_summary", head, [*rows])


def differences(found: Findings) -> str:
    """Returns the table of the paired differences to the reference."""
    comparison = found.comparison
    numbers = Numbers("differences", ("method", "metric", "difference", "low", "high", "p", "p_holm", "seeds"))
    rows = [row for row in comparison.rows if row != comparison.reference]
    bodies = dict.fromkeys(rows, "")
    for metric in comparison.metrics:
        known = {row: one for row in rows if (one := comparison.difference(row, metric.key))}
        decimals = decimals_of(one.mean for one in known.values())
        decimals = max(0, decimals - 1)
        for row in rows:
            one = known.get(row)
            if one is None:
                bodies[row] += f"<td class=n>{NONE}"
                continue
            numbers.rows.append([row, metric.key, one.mean, one.low, one.high, one.p, one.holm, one.n])
            clear = one.holm is not None and one.holm < 1 - LEVEL
            css = ("good" if (one.mean > 0) == metric.higher else "bad") if clear else "soft"
            low, high = number(one.low, decimals), number(one.high, decimals)
            small = f"<small>[{low}, {high}]</small><small>{p_text(one.holm)}</small>" if one.low is not None else ""
            tag = "b" if clear else "span"
            bodies[row] += f"<td class=n><{tag} class={css}>{number(one.mean, decimals, sign=True)}</{tag}>{small}"
    if not rows:
        return ""
    heads = [f"{escape(metric.name)}{_unit(metric)} {ARROWS[metric.higher]}" for metric in comparison.metrics]
    note = (
        f"Method minus {comparison.reference}, each seed with itself: mean, 95 % interval, and p of the paired t test "
        "after Holm's adjustment for all cells of the table. Bold: p below 0.05. Green: better, red: worse."
    )
    return section(
        f"Differences to {comparison.reference}", note, _table(found, heads, bodies, "differences") + numbers.link()
    )


def definitions(found: Findings) -> str:
    """Returns the table of delta-m in every definition, because published tables use different ones."""
    rows = found.gaining
    by_row = {row: all_deltas(found.comparison, row) for row in rows}
    words = list(dict.fromkeys(text for deltas in by_row.values() for text in deltas))
    if not words:
        return ""
    numbers = Numbers("delta_m", ("definition", *rows))
    lines = ""
    for text in words:
        values = {row: one.value if isinstance(one := by_row[row][text], Result) else None for row in rows}
        numbers.rows.append([text, *values.values()])
        top = max((value for value in values.values() if value is not None), default=None)
        cells = (_bold(value, value is not None and value == top) for value in values.values())
        lines += f"<tr><th scope=row class=wrap>{escape(text)}{''.join(cells)}"
    head = "".join(f'<th scope=col class=n><span class="name">{escape(row)}</span>' for row in rows)
    table = f'<table class="main" data-name="delta_m"><thead><tr><th scope=col>definition{head}<tbody>{lines}</table>'
    note = "Δm in percent, positive is better. Other definitions can change the order of methods. Bold: the best."
    return section("Δm in all definitions", note, scroll(table, "delta_m") + numbers.link())


def _bold(value: float | None, best: bool) -> str:
    text = number(value, 2, sign=True)
    return f"<td class=n><b>{text}</b>" if best else f"<td class=n>{text}"
