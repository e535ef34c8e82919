"""`tools/count_work.py`, `tools/many_gpus.py` and `tools/bench_growth.py`: what they count, and a tiny run of each."""

import doctest
import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import REPOSITORY

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


@pytest.fixture
def second_device():
    """Skips where torch has no interface for the device without hardware."""
    code = "import mock_device; mock_device.install()"
    paths = {"PYTHONPATH": str(REPOSITORY / "tests")}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no second device: {done.stderr.strip().splitlines()[-1]}")


def test_the_counts_of_two_methods_and_their_page(tool, second_device, tmp_path, monkeypatch, capsys):
    counts = tool("count_work")
    found = {}
    monkeypatch.setattr(
        counts, "page", lambda rows, *rest, make=counts.page: found.update(rows=rows) or make(rows, *rest)
    )
    page = tmp_path / "work.md"
    chosen = ["plain loop", "uniform", "mgda"]
    counts.main(["--balancers", *chosen, "--space", "features", "--tasks", "2", "5", "--markdown", str(page)])
    by_row = {(one.name, one.tasks): one for one in found["rows"]}
    assert set(by_row) == {(name, tasks) for name in chosen for tasks in (2, 5)}
    for (name, k), one in by_row.items():
        numbers = {"plain loop": 0, "uniform": 2 * k, "mgda": 2 * k + k * k}[name]
        assert (one.numbers, one.sent) == (numbers, 8 * numbers)  # float64
        assert one.collectives == {"plain loop": 0, "uniform": 1, "mgda": 2}[name]
        assert one.error == ""
    assert by_row["plain loop", 2].reads == 0
    # The losses with their counts, and whether the last gradient was finite; the Gram matrix.
    assert by_row["uniform", 2].reads == by_row["uniform", 5].reads == 1
    assert by_row["mgda", 2].reads == by_row["mgda", 5].reads == 2
    assert by_row["plain loop", 5].device < by_row["uniform", 5].device < by_row["mgda", 5].device
    assert by_row["uniform", 5].memory <= by_row["mgda", 5].memory
    text = page.read_text()
    assert "| `mgda` | features | " in text
    assert " | 64 / 280 |" in text
    assert "DDP's own bytes" in text


def test_where_reads_and_operations_come_from(second_device):
    words = [sys.executable, "tools/count_work.py", "--where", "mgda", "--tasks", "3"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    first, *lines = done.stdout.splitlines()
    assert first == "mgda features, 3 tasks: 2 reads, 0 sizes"
    assert [line.split()[0] for line in lines[:2]] == ["read", "read"]
    assert all("mtlkit/engine/" in line for line in lines[:2])
    total = int(lines[2].split()[0])
    rows = [line.split(maxsplit=1) for line in lines[3:]]
    assert sum(int(count) for count, _ in rows) == total
    backward = [
        int(count) for count, line in rows if line.startswith("mtlkit/networks/light.py") and "backward" in line
    ]
    assert min(backward) >= 3  # one head for each task


@pytest.mark.parametrize("name", ["bench_growth", "many_gpus", "workload"])
def test_doctests(tool, name):
    found = doctest.testmod(tool(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_an_unknown_method_is_refused(tool):
    with pytest.raises(SystemExit, match="There is no unifrm"):
        tool("count_work").methods(["unifrm"])


def test_a_place_is_a_line_of_our_code_or_the_forward_line_of_a_node(tool):
    import torch

    from mtlkit.gradients import at_least_float32

    counting = tool("counting")
    with counting.Operations("cpu", places=True) as found:
        at_least_float32(torch.ones(2, dtype=torch.bfloat16))
    (line,) = (line for line in found.where if line != "elsewhere")
    assert line.startswith("mtlkit/gradients.py:")
    assert line.endswith(" in at_least_float32")


# -- many GPUs --------------------------------------------------------------------------------------------------------


def test_a_sum_takes_the_faster_of_a_ring_and_a_tree(tool):
    gpus = tool("many_gpus")
    net = gpus.Net("x", bandwidth=2.0, latency=0.5)
    assert gpus.all_reduce(100, 1, net) == 0
    # 2 processes: a ring sends half of the bytes twice, 50 s and two messages. A tree would send all of them twice.
    assert gpus.all_reduce(100, 2, net) == 50 + 1
    # 64 processes and one byte: a ring needs 126 messages in a row, a tree 12.
    assert gpus.all_reduce(1, 64, net) == 1 + 6
    assert math.isclose(gpus.all_reduce(1e6, 64, net), 2 * 63 / 64 * 5e5 + 63)


def test_the_bytes_on_paper_are_those_of_two_processes(tool):
    """If this fails, the engine or a method sends something else now: change `many_gpus.sums_of`, and `make growth`."""
    counts, gpus, growth = tool("count_work"), tool("many_gpus"), tool("bench_growth")
    workload = tool("workload")
    methods = [("uniform", "features"), *growth.METHODS]
    found = counts.measure([(*method, k) for method in methods for k in (2, 3)], parts=["sent"])
    for one in found:
        assert one.error == ""
        encoder = workload.Blocks(counts.CHANNELS, width=32, depth=2)
        parameters = list(encoder.parameters())
        fan_in = encoder.last_layer.weight[0].numel()
        rows = 4 * 2 * 2  # batches of 4 per process; features of 2 x 2
        numbers = sum(p.numel() for p in parameters)
        sizes = gpus.Sizes(one.tasks, counts.CHANNELS, numbers, len(parameters), fan_in, rows)
        expected = gpus.sums_of(one.name, one.space, sizes, processes=2)
        assert (one.sent, one.collectives) == (expected.bytes, len(expected.parts)), one
    with pytest.raises(LookupError, match="nash"):
        gpus.sums_of("nash", "features", gpus.RESNET50)


# -- growth -----------------------------------------------------------------------------------------------------------


def test_growth_from_end_to_end(tool, tmp_path, monkeypatch, capsys):
    growth = tool("bench_growth")
    base = growth.Point(tasks=2, channels=8, size=16, depth=1)
    monkeypatch.setattr(growth, "SMALL", base)
    monkeypatch.setattr(growth, "QUICK", {"tasks": ("tasks K", (2, 3)), "depth": ("blocks", (1, 2))})
    methods = {key: growth.METHODS[key] for key in [("mgda", "features"), ("mgda", "parameters")]}
    monkeypatch.setattr(growth, "METHODS", methods)
    page = tmp_path / "growth.md"
    growth.main(["--quick", "--markdown", str(page), "--plots", str(tmp_path / "plots")])
    text = page.read_text()
    for name in ("mgda (features)", "mgda (parameters)", "plain loop"):
        (first, second) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert first.count(", ") == second.count(", ") == 2
    for what in ("time", "memory", "gpus"):
        assert f"](plots/growth_{what}.svg)" in text
        drawing = (tmp_path / "plots" / f"growth_{what}.svg").read_text()
        assert drawing.startswith("<svg xmlns=")
        assert "mgda (parameters)" in drawing
    with pytest.raises(SystemExit):
        growth.main(["--bandwidth", "10"])


def test_all_lines_of_a_picture_are_drawn_at_their_heights(tool):
    plots = tool("growth_plots")
    drawn = plots.picture([plots.Panel("t", "x", {"low": {1: 1.0, 100: 1.0}, "high": {1: 10.0, 100: 100.0}})], "words")
    lines = [
        re.findall(r"([\d.]+),([\d.]+)", points) for points in re.findall(r'<polyline[^>]*points="([^"]*)"', drawn)
    ]
    assert [len(line) for line in lines] == [2, 2, 2, 2]  # both lines, and both in the key: there as one line
    low, high = lines[0], lines[1]
    assert low[0][1] == low[1][1]
    assert float(high[1][1]) < float(high[0][1]) < float(low[0][1])  # up is towards 0
