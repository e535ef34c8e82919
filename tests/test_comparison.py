"""Comparisons of runs: every figure against arithmetic by hand or SciPy's own tests."""

import numpy as np
import pytest
from scipy import stats
from studies import FIGURES, compare, entries, write_run
from tolerances import ROUNDING

from mtlkit.study.comparison import Comparison, Context
from mtlkit.study.cost import peak_memory, step_time
from mtlkit.study.gains import all_deltas, delta, gains, worse
from mtlkit.study.outcome import SINGLE, Entry, read_outcome
from mtlkit.study.ranking import ranks, unranked
from mtlkit.study.remarks import remarks
from mtlkit.study.statistics import difference, holm, mean_ranks, summarise


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("study"))


def test_intervals_are_those_of_scipy():
    values = [0.3, 0.5, 0.45, 0.1]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = summarise(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=ROUNDING)
    assert found.half == pytest.approx((high - low) / 2, rel=ROUNDING)


def test_paired_differences_are_those_of_scipy():
    a, b = {0: 0.3, 1: 0.5, 2: 0.45, 7: 9.0}, {0: 0.2, 1: 0.1, 2: 0.5, 3: 5.0}
    found = difference(a, b)
    theirs = stats.ttest_rel([0.3, 0.5, 0.45], [0.2, 0.1, 0.5])
    assert (found.n, found.p) == (3, pytest.approx(theirs.pvalue, rel=ROUNDING))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()), rel=ROUNDING)
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 0.5}).p is None  # two seeds say nothing
    assert difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 2.0, 2: 3.0}).p == 1.0
    assert difference({0: 1.5, 1: 2.5, 2: 3.5}, {0: 1.0, 1: 2.0, 2: 3.0}).p == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ranks_and_the_critical_difference_of_a_published_example():
    # Demšar, JMLR 2006, section 3.2.2: four classifiers, 14 data sets; CD = 2.569 sqrt(4 5 / (6 14)) = 1.25.
    generator = np.random.default_rng(0)
    blocks = [dict(zip("abcd", generator.random(4), strict=True)) for _ in range(14)]
    found = mean_ranks(blocks)
    assert found.critical == pytest.approx(1.25, abs=0.005)  # printed to two digits
    table = np.array([list(block.values()) for block in blocks])
    assert found.p == pytest.approx(stats.friedmanchisquare(*table.T).pvalue, rel=ROUNDING)
    assert sum(found.mean.values()) == pytest.approx(10)  # 1 + 2 + 3 + 4
    assert mean_ranks([{"a": 1.0, "b": 1.0}]).mean == {"a": 1.5, "b": 1.5}
    assert mean_ranks([]).mean == {}


def test_values_and_summaries(study):
    assert (study.methods, study.seeds, study.tasks) == (["uniform", "rotograd"], [0, 1, 2], ["depth", "area"])
    assert study.rows == [SINGLE, "uniform", "rotograd"]
    assert study.kind == "val figures of the last evaluation"
    assert {outcome.incidents for outcome in study.outcomes} == {0}  # a fact that is null, such as no preset, is none
    for row in study.rows:
        for key, (start, slope) in FIGURES[row].items():
            assert study.values(row, key) == pytest.approx({seed: start + seed * slope for seed in range(3)})
            assert study.summary(row, key).mean == pytest.approx(start + slope)


def test_differences_to_the_reference_are_adjusted_over_the_whole_table(study):
    keys = [metric.key for metric in study.metrics]
    rows = [SINGLE, "rotograd"]
    pairs = [(row, key) for row in rows for key in keys]
    found = [study.difference(row, key) for row, key in pairs]
    for (row, key), one in zip(pairs, found, strict=True):
        theirs = [study.values(name, key)[seed] for name in (row, "uniform") for seed in range(3)]
        assert one.mean == pytest.approx(np.mean(np.subtract(theirs[:3], theirs[3:])))
    assert [one.holm for one in found] == pytest.approx(holm([one.p for one in found]))
    assert study.difference("uniform", keys[0]) is None


def test_the_best_and_what_is_within_noise(study):
    metrics = {metric.key: metric for metric in study.metrics}
    # depth/abs: 0.47 to 0.49 against 0.52 to 0.56. area/miou: 0.02, 0.03 and 0.04 apart.
    assert study.best(metrics["depth/abs"]) == ("rotograd", set())
    top, near = study.best(metrics["area/miou"])
    low = stats.ttest_rel([0.38, 0.40, 0.42], [0.36, 0.37, 0.38]).confidence_interval().low
    assert (top, near) == ("rotograd", {"uniform"} if low <= 0 else set())


def test_gains_and_deltas_by_hand(study):
    depth = [
        50 * (1 - (0.47 + s * 0.01) / (0.50 + s * 0.01) + 1 - (0.19 + s * 0.004) / (0.20 + s * 0.004)) for s in range(3)
    ]
    area = [100 * ((0.38 + s * 0.02) / (0.40 + s * 0.01) - 1) for s in range(3)]
    found = gains(study, "rotograd")
    assert found["depth"].mean == pytest.approx(np.mean(depth))
    assert found["area"].mean == pytest.approx(np.mean(area), abs=1e-9)  # the gains of the seeds cancel out
    assert delta(study, "rotograd").value == pytest.approx((np.mean(depth) + np.mean(area)) / 2)
    assert worse(study, "uniform") == (2, 2)
    every = all_deltas(study, "rotograd")
    assert list(every) == [
        "mean over tasks, mean of ratios",
        "mean over tasks, ratio of means",
        "mean over metrics, mean of ratios",
        "mean over metrics, ratio of means",
    ]
    by_metric = (2 * np.mean(depth) + np.mean(area)) / 3
    assert every["mean over metrics, mean of ratios"].value == pytest.approx(by_metric)
    assert delta(study, SINGLE).value == pytest.approx(0)


def test_ranks_of_methods(study):
    found = ranks(study)
    assert (found.mean, found.blocks) == ({"uniform": 2.0, "rotograd": 1.0}, 6)
    assert unranked(study) == []


def test_cost_joins_the_single_task_runs_of_a_seed(study):
    assert step_time(study, "uniform").mean == pytest.approx(0.011)
    assert step_time(study, "rotograd").mean == pytest.approx(0.016)
    assert step_time(study, SINGLE).mean == pytest.approx(0.022)  # two tasks, one after the other
    assert peak_memory(study, SINGLE).mean == 301 * 2**20  # and not at the same time


def test_without_single_task_runs_gains_are_relative_to_the_reference(tmp_path):
    study = compare(tmp_path, Context(reference="rotograd"), single=False)
    assert study.base == "rotograd"
    assert gains(study, "rotograd")["depth"].mean == pytest.approx(0)
    assert gains(study, "uniform")["area"].mean < 0
    assert any("no single-task runs" in line for line in remarks(study))


def test_fewer_than_three_seeds_have_no_interval(tmp_path):
    study = compare(tmp_path, seeds=(0, 1))
    assert study.summary("uniform", "depth/abs").half is None
    assert study.difference("rotograd", "depth/abs").holm is None
    assert study.best(study.metrics[0])[1] == set()
    assert any("below 3, there are no intervals" in line for line in remarks(study))


def test_a_method_without_one_seed_is_said_and_not_ranked(tmp_path):
    found = entries(tmp_path)[:-1]  # the last run is rotograd's of seed 2
    study = Comparison([read_outcome(entry) for entry in found])
    assert study.difference("rotograd", "depth/abs").n == 2
    assert unranked(study) == ["rotograd"]
    assert any(line.startswith("rotograd lacks figures of seed 2") for line in remarks(study))
    assert delta(study, "rotograd").by_seed.keys() == {0, 1}
    assert step_time(study, "rotograd").n == 2


def test_figures_of_different_kinds_are_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "rotograd", selection="last10")
    outcomes = [read_outcome(Entry(name, 0, tmp_path / run)) for name, run in (("uniform", "a"), ("rotograd", "b"))]
    with pytest.raises(ValueError, match=r"mean of the last 10 evaluations.*cannot be compared"):
        Comparison(outcomes)


def test_what_differs_between_methods_is_said(tmp_path):
    write_run(tmp_path / "a", steps=40)
    write_run(tmp_path / "b", "rotograd", steps=80)
    outcomes = [read_outcome(Entry(name, 0, tmp_path / run)) for name, run in (("uniform", "a"), ("rotograd", "b"))]
    assert "Not equal for all: the steps of training. 40: uniform; 80: rotograd." in list(remarks(Comparison(outcomes)))


def test_mistakes_are_named(tmp_path, study):
    outcomes = study.outcomes
    with pytest.raises(LookupError, match=r"called 'rotogrd'.*rotograd"):
        Comparison(outcomes, Context(reference="rotogrd"))
    with pytest.raises(LookupError, match=r"the metric 'depth/abc'.*depth/abs"):
        Comparison(outcomes, Context(metrics=["depth/abc"]))
    with pytest.raises(ValueError, match="are both uniform, seed 0"):
        Comparison([*outcomes, next(outcome for outcome in outcomes if outcome.entry.method == "uniform")])
    with pytest.raises(ValueError, match=r"no finished run.* x: it broke"):
        Comparison([], Context(failed=[("x", "it broke")]))


def test_a_figure_of_zero_in_the_baseline_leaves_its_task_out(tmp_path):
    found = []
    for method, figure in ((SINGLE, 0.0), ("uniform", 0.1)):
        figures = {"depth/abs": 0.5, "area/miou": figure}
        run = write_run(tmp_path / method, method, figures=figures)
        found.append(read_outcome(Entry(method, 0, run)))
    study = Comparison(found)
    assert list(gains(study, "uniform")) == ["depth"]
    assert "'area/miou' is 0" in delta(study, "uniform")
