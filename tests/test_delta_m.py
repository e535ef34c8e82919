"""Compares Delta-m with published tables, and its definitions with arithmetic by hand."""

from pathlib import Path

import pytest
from tolerances import ROUNDING

from mtlkit.log import JsonLines
from mtlkit.study import measured
from mtlkit.study.delta_m import PUBLISHED, DeltaM, Published, figures_of

BASE = PUBLISHED["cagrad_nyuv2"]
NYUV2 = {key: key.startswith("segmentation") or "within" in key for key in BASE.figures}
CITYSCAPES = {key: key.startswith("segmentation") for key in PUBLISHED["cagrad_cityscapes"].figures}
# Figures of table 1 of NTKMTL (NeurIPS 2025), means over 3 seeds; its printed delta-m; and the mean over tasks, which
# was computed from the figures elsewhere. A figure is printed to four digits; 0.06 covers that.
NYUV2_ROWS = {
    "LS": (39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08, 5.59, -0.88),
    "UW": (36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65, 4.05, -0.91),
    "MGDA": (30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36, 1.38, 1.66),
    "Nash-MTL": (40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15, -4.04, -7.65),
    "FAMO": (38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98, -4.10, -6.79),
    "STCH": (41.35, 66.07, 0.4965, 0.2010, 26.55, 21.81, 24.84, 51.39, 64.86, -1.35, -7.39),
}
CITYSCAPES_ROWS = {
    "LS": (75.18, 93.49, 0.0155, 46.77, 22.60),
    "UW": (72.02, 92.85, 0.0140, 30.13, 5.89),
    "Nash": (75.41, 93.66, 0.0129, 35.02, 6.82),
}


# As printed: fractions are in percent. The first two are in the code of CAGrad (utils.py of its NYUv2 and Cityscapes
# folders), the third is in the tables of Recon.
SINGLE_TASK = {
    "cagrad_nyuv2": ("of CAGrad, Nash-MTL", (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)),
    "cagrad_cityscapes": ("of CAGrad, Nash-MTL", (74.01, 93.16, 0.0125, 27.77)),
    "recon_nyuv2": ("Recon (ICLR 2023)", (38.67, 64.27, 0.6881, 0.2788, 24.87, 18.99, 30.43, 57.81, 69.70)),
}


@pytest.mark.parametrize("name", SINGLE_TASK)
def test_the_published_single_task_figures_are_those_printed(name: str) -> None:
    label, printed = SINGLE_TASK[name]
    assert set(PUBLISHED) == set(SINGLE_TASK)
    published = PUBLISHED[name]
    assert label in published.label
    scales = [100, 100, 1, 1, 1, 1, 100, 100, 100]
    found = [value * scale for value, scale in zip(published.figures.values(), scales, strict=False)]
    assert found == pytest.approx(printed, rel=ROUNDING)
    assert list(published.figures) == list(NYUV2)[: len(printed)]


@pytest.mark.parametrize("name", NYUV2_ROWS)
def test_published_values_on_nyuv2(name: str) -> None:
    *figures, by_metric, by_task = NYUV2_ROWS[name]
    scales = [100, 100, 1, 1, 1, 1, 100, 100, 100]
    method = {0: {key: v / scale for key, v, scale in zip(NYUV2, figures, scales, strict=True)}}
    # 0.06: see NYUV2_ROWS.
    assert DeltaM(NYUV2, "metrics", "negative")(method, BASE).value == pytest.approx(by_metric, abs=0.06)
    assert DeltaM(NYUV2, "tasks", "negative")(method, BASE).value == pytest.approx(by_task, abs=0.06)
    assert DeltaM(NYUV2)(method, BASE).value == pytest.approx(-by_task, abs=0.06)


@pytest.mark.parametrize("name", CITYSCAPES_ROWS)
def test_published_values_on_cityscapes(name: str) -> None:
    *figures, printed = CITYSCAPES_ROWS[name]
    method = {0: {key: v / s for key, v, s in zip(CITYSCAPES, figures, [100, 100, 1, 1], strict=True)}}
    found = DeltaM(CITYSCAPES, "metrics", "negative")(method, PUBLISHED["cagrad_cityscapes"])
    assert found.value == pytest.approx(printed, abs=0.3)  # depth/abs has three digits only
    assert "written into the code of CAGrad" in found.definition


TWO = {"a/error": False, "b/accuracy": True, "b/f1": True}
METHOD = {
    1: {"a/error": 1.0, "b/accuracy": 0.9, "b/f1": 0.5},
    2: {"a/error": 3.0, "b/accuracy": 0.6, "b/f1": 0.5},
}
OWN = {
    1: {"a/error": 2.0, "b/accuracy": 0.6, "b/f1": 0.5},
    2: {"a/error": 2.0, "b/accuracy": 0.8, "b/f1": 0.4},
}


def test_by_hand() -> None:
    found = DeltaM(TWO)(METHOD, OWN)
    assert found.per_metric == pytest.approx({"a/error": 0.0, "b/accuracy": 12.5, "b/f1": 12.5})
    assert found.per_task == pytest.approx({"a": 0.0, "b": 12.5})
    assert found.by_seed == pytest.approx({1: (50 + 25) / 2, 2: (-50 + 0) / 2})
    assert found.value == pytest.approx(6.25)
    assert found.spread == pytest.approx(62.5 / 2**0.5)
    assert found.median == pytest.approx(6.25)
    assert found.without == pytest.approx({"a": 12.5, "b": 0.0})
    assert str(found) == (
        "Δm +6.25 ± 44.19 % (positive is better, mean over tasks, of 2 runs, mean of ratios, against own single-task "
        "runs of the same seeds); a +0.00, b +12.50"
    )


def test_every_part_of_the_definition_matters() -> None:
    assert DeltaM(TWO, better="negative")(METHOD, OWN).value == pytest.approx(-6.25)
    assert DeltaM(TWO, "metrics")(METHOD, OWN).value == pytest.approx(25 / 3)
    means = DeltaM(TWO, seeds="means")(METHOD, OWN)
    assert means.per_metric == pytest.approx(
        {"a/error": 0.0, "b/accuracy": 100 * 0.05 / 0.7, "b/f1": 100 * 0.05 / 0.45}
    )
    assert means.by_seed == {}
    assert means.spread is None
    only = DeltaM(TWO, without=["a"])(METHOD, OWN)
    assert only.value == pytest.approx(12.5)
    assert only.definition.endswith("without a")
    assert only.without == {}


def test_the_seeds_are_matched() -> None:
    swapped = {1: OWN[2], 2: OWN[1]}
    assert DeltaM(TWO)(METHOD, swapped).value != pytest.approx(DeltaM(TWO)(METHOD, OWN).value)
    assert DeltaM(TWO)(METHOD, OWN | {7: OWN[1]}).value == DeltaM(TWO)(METHOD, OWN).value
    with pytest.raises(ValueError, match="no run of seed 2; seeds='means'"):
        DeltaM(TWO)(METHOD, {1: OWN[1]})
    DeltaM(TWO, seeds="means")(METHOD, {1: OWN[1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: DeltaM(TWO)({}, OWN), "no run of the method"),
        (lambda: DeltaM(TWO)({1: {"a/error": 1.0}}, OWN), "the method has no figure 'b/accuracy'"),
        (
            lambda: DeltaM(TWO)(METHOD, Published("x", {"a/eror": 1.0})),
            "baseline has no figure 'a/error'. Did you mean",
        ),
        (lambda: DeltaM(TWO)(METHOD, {1: OWN[1] | {"b/f1": 0.0}, 2: OWN[2]}), "the baseline's 'b/f1' is 0"),
        (lambda: DeltaM(TWO, "task"), "The option 'average' of delta-m cannot be 'task'. Did you mean 'tasks'"),
        (lambda: DeltaM(TWO, better="lower"), "'better' of delta-m cannot be 'lower'. Known: negative, positive"),
        (lambda: DeltaM(TWO, seeds="ratio"), "'seeds' of delta-m cannot be 'ratio'. Did you mean 'ratios'"),
        (lambda: DeltaM(TWO, without=["c"]), "there is no task 'c'"),
        (lambda: DeltaM(TWO, without=["a", "b"]), "no task is left"),
    ],
)
def test_what_cannot_be_compared(change, message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        change()


def test_a_figure_below_zero_gains_by_growing() -> None:
    found = DeltaM({"a/r2": True})({0: {"a/r2": 0.3}}, {0: {"a/r2": -0.2}})
    assert found.value == pytest.approx(250)


def write_run(
    folder: Path, seed: int, selection: str = "best", validation: str = "val", decoders: str = "", **figures: float
) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    log = JsonLines(folder / "metrics.jsonl")
    keys = {name.replace("_", "/", 1): value for name, value in figures.items()}
    higher = dict.fromkeys(keys, True) | {"a/error": False, "b/count": None}
    facts = {"higher_is_better": higher, "selection": selection, "validation": validation, "decoders": decoders}
    log.note({"step": 0, "split": "info"} | facts)
    log.evaluation({"step": 0, "split": "val", **dict.fromkeys(keys, 0.1)})
    log.evaluation({"step": 5, "split": "val", "best": True, **keys})
    log.evaluation({"step": 9, "split": "val", **{key: value + 1 for key, value in keys.items()}})
    log.finish({})
    return folder


def test_the_figures_of_runs(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a0", 0, a_error=1.0),
        write_run(tmp_path / "b0", 0, b_f1=0.5, b_count=3),
        write_run(tmp_path / "a1", 1, a_error=2.0),
        write_run(tmp_path / "b1", 1, b_f1=0.25),
    ]
    found = figures_of(runs)
    assert found.by_seed == {0: {"a/error": 1.0, "b/f1": 0.5}, 1: {"a/error": 2.0, "b/f1": 0.25}}
    assert found.higher_is_better == {"a/error": False, "b/f1": True}
    result = DeltaM(found.higher_is_better)(found, found)
    assert result.value == 0
    assert result.definition.count("val figures of the best evaluation, of 2 runs") == 1
    assert result.definition.count("val figures") == 1  # printed once, because it holds for both sides
    with pytest.raises(ValueError, match=r"again is a second run with 'a/error' of one seed"):
        figures_of([*runs, write_run(tmp_path / "again", 1, a_error=2.0)])
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        figures_of([tmp_path])


def test_figures_say_what_selected_them_and_are_compared_with_their_like(tmp_path: Path) -> None:
    honest = figures_of([write_run(tmp_path / "val", 0, b_f1=0.5)])
    chosen = figures_of([write_run(tmp_path / "test", 0, validation="test", b_f1=0.5)])
    last10 = figures_of([write_run(tmp_path / "last10", 0, "last10", "test", b_f1=0.5)])
    assert chosen.kind == "test figures of the best evaluation selected on test data"
    assert last10.kind == "test figures of the mean of the last 10 evaluations"
    assert last10.by_seed == {0: {"b/f1": 1.0}}
    delta = DeltaM({"b/f1": True})
    assert delta(chosen, chosen).definition == (
        f"positive is better, mean over tasks, {chosen.kind}, of 1 run, mean of ratios, "
        f"against own single-task runs of the same seeds"
    )
    with pytest.raises(ValueError, match=r"the method has test figures .*, the baseline val figures .*like with like"):
        delta(chosen, honest)
    with pytest.raises(ValueError, match=r"test has test figures .*; the runs before it have val figures"):
        figures_of([tmp_path / "val", tmp_path / "test"])


def test_one_run_alone_in_words(tmp_path: Path) -> None:
    found = DeltaM({"a/error": False})({3: {"a/error": 1.0}}, {3: {"a/error": 2.0}})
    assert found.spread is None
    assert str(found).startswith("Δm +50.00 % (positive is better")
    assert ", of 1 run, " in found.definition
    last = figures_of([write_run(tmp_path / "last", 0, "last", a_error=1.0)])
    assert last.kind == "val figures of the last evaluation"


def test_the_definition_says_what_the_decoders_got(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{kind}", kind, decoders=f"each decoder gets {kind}", b_f1=0.5) for kind in (0, 1)]
    found = figures_of(runs[:1])
    assert "each decoder gets 0" in DeltaM({"b/f1": True})(found, found).definition
    with pytest.raises(ValueError, match=r"where each decoder gets 1; .* where each decoder gets 0\. They cannot be"):
        figures_of(runs)


def test_the_definition_in_words() -> None:
    by_metric = DeltaM(TWO, "metrics", seeds="means")(METHOD, OWN).definition
    assert by_metric == (
        "positive is better, mean over metrics, of 2 runs, ratio of means, "
        "against own single-task runs of the same seeds"
    )


def test_the_figures_of_a_split_are_those_of_the_runs_checkpoint(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def evaluate(*arguments):
        asked.append(arguments)
        return {"b/count": 7.0, "a/error": 0.25}

    monkeypatch.setattr(measured, "evaluate_run", evaluate)
    run = write_run(tmp_path / "run", 5, "last", b_count=3.0, a_error=1.0)
    found = figures_of([run], "test")
    assert asked == [(run, "test", "last")]
    assert found.by_seed == {5: {"a/error": 0.25}}  # a count has no direction
    assert found.kind == "test figures of the last evaluation"


def test_a_run_of_an_earlier_version_has_seed_0_and_says_less(tmp_path: Path) -> None:
    run = tmp_path / "old"
    run.mkdir()
    (run / "config.yaml").write_text("{}\n")
    log = JsonLines(run / "metrics.jsonl")
    log.note({"step": 0, "split": "info"})
    log.evaluation({"step": 5, "split": "val", "best": True, "a/error": 1.0})
    log.finish({})
    found = figures_of([run])
    assert found.by_seed == {0: {}}
    assert (found.kind, found.decoders) == ("val figures of the best evaluation", "")
