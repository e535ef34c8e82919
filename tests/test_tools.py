"""The tools: their arithmetic, and a tiny complete run of each."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("bench_step")


# -- bench_step -------------------------------------------------------------------------------------------------


def test_live_bytes_counts_storages_once_and_forgets_freed_ones(bench):
    with bench.LiveBytes() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:].t()
        assert memory.now == 4000
        a.add_(1)
        c = a * 2
        assert memory.now == 8000
        del a, c
        assert memory.now == 4000  # the view still holds the storage
        del b
        assert (memory.now, memory.peak) == (0, 8000)


def test_live_bytes_sees_the_backward_pass(bench):
    x = torch.ones(10, 100, requires_grad=True)
    with bench.LiveBytes() as memory:
        (x * 2).sum().backward()
    assert x.grad is not None
    assert memory.now == 4000


@pytest.fixture
def small(bench, monkeypatch):
    """Gives both settings a small network and few tasks. Returns the dense setting."""

    def few():
        return dict(list(bench.attributes().items())[:3])

    encoder = {"name": "test_resnet"}
    dense = bench.Setting("dense", bench.dense_tasks, encoder, (32, 48), 2)
    monkeypatch.setattr(bench, "SETTINGS", {"a": dense, "b": bench.Setting("few", few, encoder, (32, 32), 4)})
    return dense


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_references_compute_the_gradient_of_plain_summing(bench, small, monkeypatch, name):
    found = []

    def update(loop):
        found.append({key: p.grad.clone() for key, p in loop.model.named_parameters()})
        loop.optimizer.zero_grad()

    monkeypatch.setattr(bench.Loop, "update", update)
    setting = bench.SETTINGS[name]
    for make in (bench.plain_loop, bench.bound):
        make(setting, setting.inputs())()
    plain, bound = found
    assert plain.keys() == bound.keys()
    for key, gradient in plain.items():
        # In float32, convolutions and batch norm sum in other orders. Entries near 0 are rounding errors.
        torch.testing.assert_close(bound[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-8)


def test_the_bench_from_end_to_end(bench, small, tmp_path, monkeypatch):
    packages = ("torchjd", "rotograd")
    for name in {*packages, *(name for name in sys.modules if name.split(".")[0] in packages)}:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    page = tmp_path / "bench.md"
    bench.main(["--repeats", "2", "--balancers", "gradnorm", "package", "--markdown", str(page)])
    text = page.read_text()
    assert text.count("## Setting") == 2
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    names = [(row[0].strip("| `"), row[1]) for row in rows]
    expected = [("uniform", ""), ("plain loop", ""), ("bound", "parameters")]
    expected += [("gradnorm", "features"), ("gradnorm", "last_layer")]
    assert names == 2 * expected
    assert [row[3:8:4] for row in rows if "`uniform`" in row[0]] == [["1.00", "1.00"]] * 2
    assert text.count("Skipped: `package:rotograd (features)`, ModuleNotFoundError") == 2


def test_a_space_of_parameters_is_measured_against_the_bound(bench, small):
    rows, skipped = bench.measure(small, ["sdmgrad"], 2, 1.0, bench.CLOCKS["cpu"])
    assert not skipped
    by_name = {(row.contestant.name, row.contestant.space): row for row in rows}
    assert by_name["bound", "parameters"].to_bound == 1
    assert by_name["sdmgrad", "parameters"].to_bound > 0
    assert by_name["uniform", ""].to_bound is None
    assert by_name["uniform", ""].ratios == [1.0, 1.0]


@pytest.mark.parametrize("name", ["uniform", "mgda (features)", "rotograd (features)", "pcgrad (parameters)"])
@pytest.mark.parametrize("key", ["a", "b"])
def test_a_loop_needs_no_more_memory_than_the_engine(bench, small, name, key):
    setting = bench.SETTINGS[key]
    batch = setting.inputs()
    memory = {c.key: bench.begin(c, setting, batch).memory for c in bench.contestants(["loop"]) if name in c.key}
    # A loop hands over means, so one number per task says that each counts once, and takes 8 bytes.
    assert memory[f"loop:{name}"] <= memory[name] + 64 * 3


def test_a_loop_is_measured_against_the_engine(bench, small):
    rows, skipped = bench.measure(small, ["loop:mgda"], 2, 1.0, bench.CLOCKS["cpu"])
    assert not skipped
    assert [row.contestant.key for row in rows[2:]] == ["mgda (features)", "loop:mgda (features)"]
    *others, loop = rows
    assert [row.memory_to_engine for row in others] == [None] * 3
    assert loop.memory_to_engine < 1.001
    assert len(loop.to_engine) == 2
    assert "loop" not in bench.table(rows).replace("plain loop", "")
    (line,) = bench.table_of_loops(rows).splitlines()[2:]
    assert line.startswith("| `mgda` | features | ")
    assert bench.table_of_loops(others) == ""


def test_an_unknown_contestant_is_refused(bench):
    with pytest.raises(SystemExit, match="There is no gradnrm"):
        bench.contestants(["gradnrm"])


# -- check_gpu --------------------------------------------------------------------------------------------------


@pytest.fixture
def check_gpu(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("check_gpu")


def test_a_part_that_fails_hangs_or_dies_is_on_the_page_and_the_others_run(check_gpu, tmp_path, monkeypatch, capsys):
    script, page = tmp_path / "parts.py", tmp_path / "page.md"
    script.write_text(
        """
import os, sys, time
part, into = sys.argv[sys.argv.index("--part") + 1], sys.argv[-1]
open(into, "w").write(f"found by {part}\\nLeft out: sleep" if part == "loader" else f"found by {part}")
if part == "kit":
    raise ValueError("no such balancer")
if part == "precision":
    time.sleep(60)
if part == "compile":
    os.abort()
"""
    )
    monkeypatch.setattr(check_gpu, "__file__", str(script))
    names = ["kit", "precision", "compile", "loader"]
    monkeypatch.setattr(
        check_gpu, "PARTS", {n: (*check_gpu.PARTS[n][:2], 0.3 if n == "precision" else 9) for n in names}
    )
    check_gpu.main(["--parts", *names, "--toy", "--balancers", "uniform", "--markdown", str(page)])
    text = page.read_text()
    assert [f"found by {name}" in text for name in names] == [True] * 4
    outcomes = [re.sub(r", \d+ s", "", line) for line in text.splitlines() if line.startswith("**")]
    assert outcomes == [
        "**failed**: ValueError: no such balancer",
        "**failed**: not done after 1.2 s; what it found until then is below",
        "**failed**: it died with the status -6",
        "**ok, but some is left out**",
    ]
    assert f"torch {torch.__version__}" in text
    assert "toy sizes" in text
    with pytest.raises(SystemExit, match="There is no balancer unifrm"):
        check_gpu.main(["--balancers", "unifrm"])


@pytest.mark.long
def test_the_check_of_a_gpu_runs_on_a_cpu(check_gpu, tmp_path, capsys):
    page = tmp_path / "page.md"
    check_gpu.main(["--toy", "--markdown", str(page)])
    outcomes = [line for line in page.read_text().splitlines() if line.startswith("**")]
    assert len(outcomes) == len(check_gpu.PARTS)
    assert all(line.startswith("**ok") for line in outcomes), outcomes
