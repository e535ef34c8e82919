"""The parts of the display, as rich lays them out. A name and its value are one item, which is never parted."""

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mtlkit.console.state import State, metrics_of
from mtlkit.console.words import clip, number
from mtlkit.observer import Record
from mtlkit.plain_text import plain
from mtlkit.report.many import is_many, mean
from mtlkit.report.table import ARROWS

GAP = (0, 2, 0, 0)  #: between two cells or items
COLUMNS = ("loss", "weight", "gradient")
NUMBERS = 33  #: the width of these columns with their gaps


class Flow:
    """Short texts beside each other. A line breaks between two texts only: rich would break within one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = [plain(text) for text in texts]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        line = ""
        for text in self.texts:
            if line and cell_len(line) + 2 + cell_len(text) > options.max_width:
                yield Text(line)
                line = ""
            line += f"{'  ' * bool(line)}{text}"
        if line:
            yield Text(line)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [cell_len(text) for text in self.texts] or [0]
        return Measurement(max(widths), sum(widths) + 2 * (len(widths) - 1)).with_maximum(options.max_width)


def live(state: State, width: int) -> RenderableType:
    """Returns the table of the live display."""
    shown: list[RenderableType] = [Flow(state.facts())]
    if state.tasks:
        shown.append(_many_table(state, width) if is_many(state.tasks) else _few_table(state, width))
    return Group(*shown)


def train_lines(state: State) -> RenderableType:
    """Returns the losses and weights of a training record, for plain lines."""
    if not is_many(state.tasks):
        return Flow(_loss(state.train, task) for task in state.tasks if f"loss/{task}" in state.train)
    ranking = state.ranking_of_training()
    grid = _grid()
    grid.add_row("mean", Flow([f"{key} {_mean(state, state.train, key)}" for key in ("loss", "weight")]))
    for group, tasks in ranking.groups().items():
        if tasks:
            grid.add_row(group, Flow(_loss(state.train, task) for task in tasks))
    return grid


def metric_lines(state: State, record: Record) -> RenderableType:
    """Returns the metrics of an evaluation, for plain lines."""
    grid = _grid()
    if not is_many(state.tasks):
        for task in state.tasks:
            if metrics := _metrics(record, task):
                grid.add_row(clip(task), Flow(metrics))
        return grid
    grid.add_row("mean", Flow(_mean_metrics(state, record)))
    if record["split"] == "val":
        ranking = state.ranking()
        for group, tasks in ranking.groups().items():
            if tasks:
                grid.add_row(group, Flow(f"{clip(t)} {clip(ranking.by)} {number(ranking.now[t])}" for t in tasks))
    return grid


def _few_table(state: State, width: int) -> Table:
    most = max(12, (width - NUMBERS) // 3)
    table = _table("task", *COLUMNS)
    table.add_column(f"validation at step {state.val['step']}" if state.val else "")
    rest = width - NUMBERS - most - 4
    for task in state.tasks:
        table.add_row(clip(task, most), *_numbers(state.train, task), Flow(_metrics(state.val, task, rest)))
    return table


def _many_table(state: State, width: int) -> RenderableType:
    ranking = state.ranking()
    by = clip(ranking.by, 16)
    table = _table("", "task", *COLUMNS, *([f"{by} {ARROWS[ranking.higher]}"] if state.val else []))
    most = max(12, width - NUMBERS - len(by) - 19)
    means = [_mean(state, state.train, key) for key in ("loss", "weight", "grad_norm")]
    figure = [_mean_text(ranking.now.values())] if state.val else []
    table.add_row("mean", f"of {len(state.tasks)} tasks", *means, *figure)
    for group, tasks in ranking.groups().items():
        for place, task in enumerate(tasks):
            figure = [number(ranking.now[task])] if state.val else []
            table.add_row(group * (place == 0), clip(task, most), *_numbers(state.train, task), *figure)
    if not state.val:
        return table
    heading = Text(f"validation at step {state.val['step']}, mean over the tasks", "dim")
    return Group(table, heading, Flow(_mean_metrics(state, state.val)))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=GAP)
    for column in columns:
        left = column in ("", "task")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _grid() -> Table:
    grid = Table.grid(padding=GAP)
    grid.add_column(no_wrap=True)
    grid.add_column()
    return grid


def _numbers(record: Record, task: str) -> list[str]:
    return [number(record.get(f"{key}/{task}")) for key in ("loss", "weight", "grad_norm")]


def _loss(record: Record, task: str) -> str:
    weight = record.get(f"weight/{task}")
    return f"{clip(task)} {number(record.get(f'loss/{task}'))}" + ("" if weight is None else f" w {number(weight)}")


def _metrics(record: Record, task: str, width: int = 120) -> list[str]:
    most = max(8, min(32, width - 12))
    return [f"{clip(name, most)} {number(value)}" for name, value in metrics_of(record, task).items()]


def _mean(state: State, record: Record, key: str) -> str:
    return _mean_text(record.get(f"{key}/{task}") for task in state.tasks)


def _mean_text(values: Iterable[float | None]) -> str:
    """Returns a mean, and over how many of the values where some are missing."""
    found = list(values)
    value, count = mean(found)
    return number(value) + (f" ({count} of {len(found)})" if 0 < count < len(found) else "")


def _mean_metrics(state: State, record: Record) -> list[str]:
    """Returns the mean of every metric over the tasks that have this metric."""
    found: dict[str, list[float | None]] = {}
    for task in state.tasks:
        for name, value in metrics_of(record, task).items():
            found.setdefault(name, []).append(value)
    return [f"{clip(name)} {_mean_text(values)}" for name, values in found.items()]
