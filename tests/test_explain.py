"""`mtlkit explain` and the report's sections on gradients. Tests compare their numbers with the gradients."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import NETWORK

from mtlkit.balancer import Balancer
from mtlkit.cli.main import main
from mtlkit.engine.scalars import scalars_of
from mtlkit.report import write_report
from mtlkit.report.gradients import WINDOW, directions, moving_deviation, pairs
from mtlkit.report.history import History

TASKS = ("a", "b", "c")
EQUAL = dict.fromkeys(TASKS, 1.0)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes the folder of a run with these records."""

    def write(records: list[dict[str, Any]], config: str = "balancer: {name: mine}\n") -> Path:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (tmp_path / "config.yaml").write_text(config)
        return tmp_path

    return write


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def record(step: int, gradients: dict[str, np.ndarray], **further: Any) -> dict[str, Any]:
    """Returns a training record of these task gradients, as `scalars_of` would make it."""
    found: dict[str, Any] = {"step": step, "split": "train"} | {f"loss/{task}": 1.0 for task in gradients}
    found |= {f"grad_norm/{task}": float(np.linalg.norm(g)) for task, g in gradients.items()}
    for (a, g), (b, h) in combinations(gradients.items(), 2):
        found[f"cosine/{a}/{b}"] = cosine(g, h) if g.any() and h.any() else 0.0
    return found | further


def run_of(gradients: list[dict[str, np.ndarray]], weights: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Returns the records of steps with these gradients and weights."""
    pairs_of = zip(gradients, weights, strict=True)
    return [record(i, g, **{f"weight/{task}": value for task, value in w.items()}) for i, (g, w) in enumerate(pairs_of)]


def draw(count: int, tasks: tuple[str, ...] = TASKS) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{task: random.normal(size=5) for task in tasks} for _ in range(count)]


def drawn_weights(count: int, tasks: tuple[str, ...] = TASKS) -> list[dict[str, float]]:
    random = np.random.default_rng(1)
    return [{task: random.normal() for task in tasks} for _ in range(count)]


def test_directions_are_those_of_the_gradients(write):
    gradients, weights = draw(7), drawn_weights(7)
    found = directions(History(write(run_of(gradients, weights))))
    assert found.weighted
    assert found.left_out == 0
    for i, (g, w) in enumerate(zip(gradients, weights, strict=True)):
        combined, plain = sum(w[t] * g[t] for t in TASKS), sum(g.values())
        assert found.cosine[i] == pytest.approx(cosine(combined, plain))
        assert found.length[i] == pytest.approx(np.linalg.norm(combined) / np.linalg.norm(plain))
        np.testing.assert_allclose(found.alignment[i], [cosine(combined, g[t]) for t in TASKS])
        pulls = np.array([w[t] * np.linalg.norm(g[t]) for t in TASKS])
        np.testing.assert_allclose(found.shares[i], pulls / np.abs(pulls).sum())


def test_pairs_count_the_conflicts(write):
    gradients = draw(WINDOW + 10)
    known = pairs(History(write([record(i, g) for i, g in enumerate(gradients)])))
    assert [(pair.first, pair.second) for pair in known] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in known:
        values = [cosine(g[pair.first], g[pair.second]) for g in gradients]
        windows = [np.std(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]
        assert pair.conflicts == np.mean([value < 0 for value in values])
        assert pair.mean == pytest.approx(np.mean(values))
        assert pair.deviation == pytest.approx(np.mean(windows))


def test_few_steps_are_one_window():
    values = np.array([0.5, -0.5, 0.25])
    np.testing.assert_allclose(moving_deviation(values), [values.std()])


def test_a_gradient_of_length_zero_has_no_cosine_and_no_conflict(write):
    gradients = draw(3)
    gradients[1]["a"] = np.zeros(5)
    history = History(write(run_of(gradients, [EQUAL] * 3)))
    known = {(pair.first, pair.second): pair.count for pair in pairs(history)}
    assert known == {("a", "b"): 2, ("a", "c"): 2, ("b", "c"): 3}
    found = directions(history)
    assert np.isnan(found.alignment[1, 0])
    np.testing.assert_allclose(found.cosine, 1)  # with equal weights, it is the plain sum


def test_an_absent_task_has_no_part_in_the_step(write):
    gradients = draw(2)
    del gradients[1]["b"]
    weights = [{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "c": 3.0}]
    found = directions(History(write(run_of(gradients, weights))))
    g = gradients[1]
    assert found.cosine[1] == pytest.approx(cosine(g["a"] + 3 * g["c"], g["a"] + g["c"]))
    assert np.isnan(found.alignment[1, 1])
    assert found.shares[1, 1] == 0


def test_gradients_that_cancel_have_no_direction(write):
    g = np.array([1.0, 2.0, 3.0]) / 7
    found = directions(History(write(run_of([{"a": g, "b": -g}], [{"a": 3.0, "b": 1.0}]))))
    np.testing.assert_allclose(found.alignment, [[1, -1]])
    assert np.isnan(found.cosine).all()
    assert np.isnan(found.length).all()


class Weighted(Balancer):
    """Returns the weights 1, 2, 3."""

    needs = frozenset({"gram"})

    def combine(self, step):
        return step.losses.new_tensor([1.0, 2.0, 3.0])


class Elementwise(Balancer):
    """Makes the same sum, but returns a gradient, so its weights are unknown."""

    needs = frozenset({"gram"})

    def combine(self, step):
        levels = zip(*step.local_gradients, strict=True)
        return [sum(w * g for w, g in zip((1, 2, 3), level, strict=True) if g is not None) for level in levels]


def test_what_an_elementwise_method_logs_tells_the_same_directions(write, toys):
    found = []
    for cls in (Weighted, Elementwise):
        engine = toys.make_engine(cls(toys.TASK_NAMES))
        steps = [engine.train_step(toys.make_batch(number)) for number in range(3)]
        records = [{"step": step.number + 1, "split": "train"} | scalars_of(step) for step in steps]
        found.append(directions(History(write(json.loads(json.dumps(records))))))
    one, two = found
    assert (one.weighted, two.weighted) == (True, False)
    assert one.tasks == two.tasks == list(toys.TASK_NAMES)
    for name in ("steps", "alignment", "cosine", "length"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=NETWORK)
    assert one.series(one.shares).keys() == set(one.tasks)
    assert not two.series(two.shares)


def text(run: Path, capsys: pytest.CaptureFixture) -> str:
    assert main(["explain", str(run)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_command_tells_all_of_it(write, capsys):
    g, h = np.array([1.0, 0.0]), np.array([-0.6, 0.8])
    run = write(run_of([{"a": g, "b": 4 * h}] * 3, [{"a": 4.0, "b": 1.0}] * 3))
    shown = text(run, capsys)
    assert f"{run}: mine, 2 tasks, 2 steps" in shown
    assert "a · b 100 % -0.600 – 0.000 3" in shown
    assert "a 1 4 20 % 50 % 50 % 50 %" in shown
    assert "Favoured most: a (+30 points); least: b (-30 points)." in shown
    plain, combined = g + 4 * h, 4 * g + 4 * h
    assert f"the plain sum {cosine(plain, combined):+.3f}" in shown
    length = np.linalg.norm(combined) / np.linalg.norm(plain)
    assert f"Length, the plain sum's being 1: {length:.3g}; early {length:.3g}, late {length:.3g}." in shown
    assert "elementwise" not in shown
    assert "left out" not in shown


def test_the_command_counts_steps_against_a_task(write, capsys):
    g = np.array([1.0, 0.0])
    records = run_of([{"a": g, "b": -g}] * 4, [{"a": 1.0, "b": b} for b in (0.5, 2, 2, 2)])
    shown = text(write(records), capsys)
    assert "a -0.500 -1.000 +0.000 -1.000 75 %" in shown
    assert "the plain sum – – – – –" in shown


def test_without_weights_the_command_says_so(write, capsys):
    gradients = draw(3)
    logged = {f"direction/{task}": 0.5 for task in TASKS} | {"direction_norm": 2.0}
    shown = text(write([record(i, g, **logged) for i, g in enumerate(gradients)]), capsys)
    assert "elementwise: there are no weights, so no task has a share" in shown
    assert "a +0.500 +0.500 +0.500 +0.500 0 %" in shown
    assert "Shares" not in shown
    logged = dict.fromkeys(logged, 0.0)  # the method dropped every gradient
    assert "a – – – – –" in text(write([record(i, g, **logged) for i, g in enumerate(gradients)]), capsys)
    shown = text(write([record(i, g) for i, g in enumerate(gradients)]), capsys)
    assert "3 of 3 logged steps have values that are missing or not finite" in shown
    assert "Conflicts" in shown


def test_rows_that_are_not_finite_are_left_out_and_counted(write, capsys):
    records = run_of(draw(5), [dict.fromkeys(TASKS, 2.0)] * 5)
    records[1]["grad_norm/a"] = None
    records[2]["weight/b"] = None
    records[3]["cosine/a/c"] = None
    run = write(records)
    found = directions(History(run))
    assert found.steps.tolist() == [0, 4]
    np.testing.assert_allclose(found.length, 2)
    assert "3 of 5 logged steps have values that are missing or not finite: left out." in text(run, capsys)
    run = write([{key: None if "/" in key else value for key, value in record.items()} for record in records])
    assert "5 of 5 logged steps" in text(run, capsys)


def test_means_over_micro_batches_are_said_to_be_approximate(write, capsys):
    records = run_of(draw(2), [EQUAL] * 2)
    assert "2 micro-batches, so approximate" in text(write(records, "trainer: {accumulation: 2}\n"), capsys)
    assert "approximate" not in text(write(records, "trainer: {accumulation: 1}\n"), capsys)


def test_only_the_worst_of_many_pairs_are_listed(write, capsys):
    names = tuple(f"t{i}" for i in range(7))
    shown = text(write(run_of(draw(1, names), drawn_weights(1, names))), capsys)
    assert "The 15 of 21 pairs with most conflicts." in shown
    assert shown.count(" · ") == 15


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "has no training steps"),
        ([{"step": 0, "split": "val", "loss/a": 1.0, "loss/b": 1.0}], "has no training steps"),
        ([{"step": 1, "split": "train", "loss/a": 1.0, "loss/b": 1.0}], r"has no gradient norms (grad_norm/<task>)"),
        (run_of([{"a": np.ones(2)}], [{"a": 1.0}]), "trains 'a' alone"),
    ],
)
def test_a_log_that_tells_nothing_is_a_users_mistake(write, capsys, records, message):
    run = write(records)
    assert main(["explain", str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(run) in error
    assert "<h2>Direction" not in write_report(run).read_text()


def test_a_folder_that_is_no_run_is_a_users_mistake(tmp_path, capsys):
    assert main(["explain", str(tmp_path)]) == 2
    assert "has no metrics.jsonl" in capsys.readouterr().err


def test_the_page_has_the_same_numbers(write):
    run = write(run_of(draw(WINDOW + 5), drawn_weights(WINDOW + 5)))
    page = write_report(run).read_text()
    history = History(run)
    for pair in pairs(history):
        low, high = pair.interval
        assert f"{pair.first} and {pair.second} {pair.mean:+.3f}, interval {low:+.3f} to {high:+.3f}" in page
        assert f">{100 * pair.conflicts:.0f} %</text>" in page
    found = directions(history)
    assert f"the plain sum<td class=n>{found.cosine.mean():+.3f}" in page
    for task, column in zip(TASKS, found.alignment.T, strict=True):
        assert f"{task}<td class=n>{column.mean():+.3f}" in page


def test_the_page_of_many_tasks_lists_the_extreme_pairs(write):
    names = tuple(f"t{i}" for i in range(12))
    run = write(run_of(draw(3, names), drawn_weights(3, names)))
    page = write_report(run).read_text()
    assert "Listed are the 15 of 66 pairs" in page
    known = sorted(pairs(History(run)), key=lambda pair: pair.mean)
    shown = [f"{pair.first} and {pair.second} {pair.mean:+.3f}" in page for pair in known]
    assert shown == [True] * 7 + [False] * 51 + [True] * 8
