"""The tools: their arithmetic, and a tiny complete run of each."""

import importlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)  # the processes that it starts also import it by its name
    return importlib.import_module("reproduce_digits")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("digits_page")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("bench_step")


# -- reproduce_digits -------------------------------------------------------------------------------------------

TASKS = ("left", "right", "sum", "product", "density")


def evaluation(*figures):
    keys = ("left/accuracy", "right/accuracy", "sum/mse", "product/mse", "density/mse")
    return {key: figure for key, figure in zip(keys, figures, strict=True) if figure is not None}


CONSTANT = evaluation(0.1, 0.1, 16.0, 400.0, 10.0)
GOOD = evaluation(0.9, 0.8, 4.0, 100.0, 1.0)


def outcome(record):
    return {"constant": CONSTANT, "val": record, "test": record, "noise": 0.1}


def table(page, records, rates=(0.1, 0.2), seeds=(0, 1)):
    """Makes a table from {(method, rate, seed): evaluation, or None if the run diverged}."""
    outcomes = {key: {"diverged": "NaN"} if record is None else outcome(record) for key, record in records.items()}
    return page.Table(outcomes, rates, seeds)


def singles(page, *seeds):
    """Returns single-task runs with the figures of GOOD."""
    return {
        (f"single {task}", rate, seed): {key: value for key, value in GOOD.items() if key.startswith(f"{task}/")}
        for task in TASKS
        for rate in (0.1, 0.2)
        for seed in seeds
    }


def test_the_rate_is_that_of_the_lowest_relative_validation_error(page):
    worse = GOOD | {"sum/mse": 8.0}
    found = table(page, {("uniform", 0.1, 0): worse, ("uniform", 0.2, 0): GOOD, ("uniform", 0.2, 1): worse})
    assert found.error("uniform", 0.2) == pytest.approx((1 / 9 + 2 / 9 + 1 / 4 + 1 / 4 + 1 / 10) / 5)
    assert found.error("uniform", 0.1) == pytest.approx(found.error("uniform", 0.2) + 1 / 4 / 5)
    assert found.chosen == {"uniform": 0.2}


def test_a_rate_that_diverges_is_not_chosen_and_a_seed_that_does_is_counted(page):
    runs = {("uniform", 0.1, 0): None, ("uniform", 0.2, 0): GOOD, ("uniform", 0.2, 1): None}
    found = table(page, runs)
    assert found.error("uniform", 0.1) == math.inf
    assert found.chosen == {"uniform": 0.2}
    assert found.values("uniform", "sum") == {0: 4.0}
    assert page.spread(found.values("uniform", "sum").values(), 2) == "4.00 ± - (1 of 2)"
    assert page.spread([], 2) == "diverged"


def test_figures_that_are_not_finite_count_as_diverged(page):
    assert page.percent(GOOD | {"sum/mse": None}) == {}
    assert page.percent(GOOD)["left"] == 90


def test_delta_m_is_relative_to_the_single_task_run_of_the_seed(page):
    better = evaluation(0.99, 0.8, 2.0, 100.0, 1.5)  # +10 %, 0, +50 %, 0, -50 %
    runs = {("uniform", rate, seed): better if seed == 0 else GOOD for rate in (0.1, 0.2) for seed in (0, 1)}
    found = table(page, runs | singles(page, 0, 1))
    assert found.gains("uniform") == pytest.approx({0: (10 + 50 - 50) / 5, 1: 0})
    assert found.gains("uniform", ["density"]) == pytest.approx({0: (10 + 50) / 4, 1: 0})
    assert found.rows == ["uniform", "single task"]


def test_the_numbers_under_the_claims_are_paired_by_seed(page):
    records = {
        "uniform": [GOOD, GOOD],
        "rotograd": [GOOD | {"sum/mse": 3.0}, GOOD | {"sum/mse": 5.0, "product/mse": 50.0}],
        "procrustes 0.99": [GOOD, GOOD],
        "procrustes jump": [GOOD | {"left/accuracy": 0.5}, GOOD | {"left/accuracy": 0.7}],
        "gradnorm Z": [GOOD, GOOD],
        "gradnorm W": [GOOD | {"density/mse": 2.0}, GOOD | {"density/mse": 2.0}],
    }
    found = table(page, {(m, 0.1, seed): r for m, both in records.items() for seed, r in enumerate(both)}, [0.1])
    assert page.against(found, "rotograd", "uniform", "sum") == "+0.0 (1 of 2)"
    assert page.against(found, "rotograd", "uniform", "product") == "+25.0 (1 of 2)"
    text = "".join(page.claims(found))
    assert "| `rotograd` | +0.0 (0 of 2) | +0.0 (0 of 2) | +0.0 (1 of 2) | +25.0 (1 of 2) | +0.0 (0 of 2) |" in text
    assert "| `procrustes jump` | 14.1 |" in text  # the deviation of 50 and 70
    assert (
        "| gain of `Z` over `W` | +0.0 (0 of 2) | +0.0 (0 of 2) | +0.0 (0 of 2) | +0.0 (0 of 2) | +50.0 (2 of 2) |"
        in text
    )


def test_noise_looks_at_the_last_third_only(digits):
    losses = [100.0, 3.0, 50.0, 7.0, 1.0, math.e]
    records = [{"split": "train", "loss/sum": loss} for loss in losses]
    assert digits.noise(records) == pytest.approx(0.5**0.5)


@pytest.fixture
def few_digits(tmp_path):
    """Random digits in MNIST's files: 48 for training and validation, 12 for the test."""
    random = np.random.default_rng(0)
    for file, n in (("train", 48), ("t10k", 12)):
        for kind, array in (
            ("images-idx3", random.integers(256, size=(n, 28, 28), dtype=np.uint8)),
            ("labels-idx1", random.integers(10, size=n, dtype=np.uint8)),
        ):
            head = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            (tmp_path / f"{file}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return tmp_path


def test_digits_from_end_to_end_and_taken_up_again(digits, few_digits, tmp_path, capsys):
    file = tmp_path / "digits.md"
    words = ["--root", str(few_digits), "--out", str(tmp_path / "runs"), "--write", str(file), "--jobs", "1"]
    words += ["--methods", "uniform", "--rates", "1e-3", "1e-2", "--seeds", "3", "4"]
    words += ["--set", "data.batch_size=8", "trainer.max_epochs=2"]
    digits.main(words)
    first, runs = file.read_text(), sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 3  # two rates with the first seed, the better one with the second
    assert "[2/2] uniform" in capsys.readouterr().out
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert max(steps) == 10
        test = json.loads((run / "outcome.json").read_text())["test"]
        assert test["sum/mse"] > 0
    assert first.count("(chosen)") == 1
    assert "| `uniform` |" in first

    before = (runs[0] / "outcome.json").read_text()
    (runs[0] / "outcome.json").unlink()  # as if the command had been interrupted after the last checkpoint
    digits.run(digits.Job("uniform", 0.01, 3, runs[0], (f"output_dir='{runs[0]}'",)))
    assert (runs[0] / "outcome.json").read_text() == before
    digits.main(words)
    assert "uniform, rate" not in capsys.readouterr().out  # nothing was left to run
    assert file.read_text() == first

    with pytest.raises(ValueError, match=r"holds a run with other settings"):
        digits.main([*words, "trainer.clip_norm=1.0"])

    ablation = [*words[:6], "--jobs", "1", "--methods", "rotograd scale_only", "--keep", "uniform", *words[10:]]
    ablation[ablation.index("--seeds") :] = ["--seeds", "3", *words[words.index("--set") :]]
    digits.main(ablation)
    said = capsys.readouterr().out
    assert "[2/2] rotograd scale_only" in said  # one for each rate
    assert "uniform, rate" not in said
    joined = file.read_text()
    assert joined.index("| `uniform` |") < joined.index("| `rotograd scale_only` |")
    assert re.search(r"^Kept from earlier runs \([-0-9]+\), not repeated: `uniform`\.$", joined, re.MULTILINE)
    assert (
        "scale_only: true"
        in next((tmp_path / "runs").glob("rotograd_scale_only*"), None).joinpath("config.yaml").read_text()
    )
    with pytest.raises(ValueError, match=r"cosreg, rate 0.001, seed 3 is not finished.*--keep"):
        digits.main([*ablation, "--keep", "cosreg"])
    with pytest.raises(ValueError, match=r"uniform.*holds a run with other settings \(trainer\)"):
        digits.main([*ablation, "trainer.clip_norm=1.0"])


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
