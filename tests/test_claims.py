"""Claims of a study: the grammar, what is refused before any run, and verdicts against SciPy's paired t test."""

import pytest
from scipy import stats
from studies import compare, entries
from tolerances import ROUNDING

from mtlkit.study.claims import check_claims, parse_claim
from mtlkit.study.comparison import Comparison, Context
from mtlkit.study.outcome import SINGLE, Entry, read_outcome
from mtlkit.study.verdicts import judge, judged

#: Figures of seeds 0, 1 and 2, as tests/studies.py writes them.
DEPTH = {SINGLE: [0.50, 0.51, 0.52], "uniform": [0.52, 0.54, 0.56], "rotograd": [0.47, 0.48, 0.49]}
AREA = {SINGLE: [0.40, 0.41, 0.42], "uniform": [0.36, 0.37, 0.38], "rotograd": [0.38, 0.40, 0.42]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("study"))


def verdict(study, text):
    return judge(study, parse_claim(text))


def test_the_grammar():
    claim = parse_claim("  depth/abs of  gradnorm W <  depth/abs of single-task ")
    assert (claim.figure, claim.method, claim.sign, claim.other, claim.factor) == (
        *("depth/abs", "gradnorm W", "<"),
        *("single-task", 1.0),
    )
    assert str(claim) == "depth/abs of gradnorm W < depth/abs of single-task"
    assert parse_claim("step_time of a < 1.5*step_time of b").factor == 1.5
    assert parse_claim("gain in depth of a > -2e-1").bound == -0.2
    assert parse_claim("gain in depth of a > -2e-1").figure == "gain in depth"
    assert parse_claim("density of 3 of a < density of b").method == "3 of a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no < or >; expected FIGURE of METHOD"),
        ("a of b", "no < or >"),
        ("a of b < a of c < a of d", "more than one < or >"),
        ("a of b <= a of c", "write < or >"),
        ("a < 3", "has 'a' where FIGURE of METHOD should be"),
        (" of b < 3", "where FIGURE of METHOD should be"),
        ("a of b < ", "has '' where FIGURE of METHOD should be"),
        ("a of b < 2 * 3", "has '3' where"),
        ("a of b < c of d", "compares 'a' with 'c'; both sides must name one figure"),
        ("a of b < a of b", "compares 'b' with itself"),
    ],
)
def test_bad_claims_say_what_was_expected(text, said):
    with pytest.raises(ValueError, match="The claim") as error:
        parse_claim(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("depth of rotogrd > 0", r"method 'rotogrd', which the study has not. Did you mean 'rotograd'"),
        ("depth of rotograd > depth of gradnorm", r"method 'gradnorm'.*Known: rotograd"),
        ("dpth/abs of rotograd > 0", r"task 'dpth'. Did you mean 'depth'"),
        ("gain in dpth of rotograd > 0", r"task 'dpth'. Did you mean 'depth'"),
        ("delta-m of rotograd > 0", r"Did you mean 'delta_m'"),
        ("depth of rotograd > 0", r"must name one metric of 'depth': depth/abs, depth/rel"),
        ("depth/abz of rotograd > 0", r"Did you mean 'depth/abs'"),
    ],
)
def test_claims_are_checked_before_any_run(text, said):
    with pytest.raises(LookupError, match=said):
        check_claims(
            [parse_claim(text)],
            ["uniform", "rotograd", SINGLE],
            ["depth", "area"],
            ["depth/abs", "depth/rel", "area/miou"],
        )


def test_without_metrics_only_the_task_is_checked():
    check_claims(
        [parse_claim(text) for text in ("depth of a > 0", "depth/new of a > 0", "step_time of a < 1")], ["a"], ["depth"]
    )
    for text in ("delta_m of a > 0", "gain in depth of a > 0"):
        with pytest.raises(LookupError, match="needs single-task runs"):
            check_claims([parse_claim(text)], ["a"], ["depth"])


def test_verdicts_are_those_of_the_paired_t_test(study):
    found = verdict(study, "depth/abs of rotograd < depth/abs of uniform")
    interval = stats.ttest_rel(DEPTH["rotograd"], DEPTH["uniform"]).confidence_interval()
    assert (found.verdict, found.n) == ("confirmed", 3)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval), rel=ROUNDING)
    assert found.sentence == (
        "depth/abs of rotograd < depth/abs of uniform: confirmed. Left minus right: -0.060, 95 % interval -0.085 to "
        "-0.035, 3 seeds."
    )
    assert verdict(study, "depth/abs of rotograd > depth/abs of uniform").verdict == "refuted"
    close = stats.ttest_rel(AREA["rotograd"], AREA[SINGLE]).confidence_interval()
    assert close.low <= 0 <= close.high
    for sign in "<>":
        assert verdict(study, f"area of rotograd {sign} area of single-task").verdict == "undecided"


def test_a_number_and_a_factor_on_the_right(study):
    low, high = stats.t.interval(0.95, 2, 0.48, stats.sem(DEPTH["rotograd"]))
    assert low < 0.46 < high < 0.51
    assert verdict(study, "depth/abs of rotograd < 0.51").verdict == "confirmed"
    assert verdict(study, "depth/abs of rotograd < 0.46").verdict == "undecided"
    assert verdict(study, "depth/abs of rotograd > 0.51").verdict == "refuted"
    found = verdict(study, "depth/abs of rotograd < 0.9 * depth/abs of uniform")
    scaled = stats.ttest_rel(DEPTH["rotograd"], [0.9 * value for value in DEPTH["uniform"]]).confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(scaled), rel=1e-9)  # digits cancel
    # The steps take 15, 16 and 17 ms against 10, 11 and 12 ms, so left minus right is 5 ms and 0, -0.5, -1 ms.
    slower = verdict(study, "step_time of rotograd > step_time of uniform")
    assert (slower.verdict, slower.difference.mean) == ("confirmed", pytest.approx(0.005))
    assert verdict(study, "step_time of rotograd < 1.5 * step_time of uniform").difference.mean == pytest.approx(-5e-4)


def test_gains_and_delta_m(study):
    gain = [100 * (value / base - 1) for value, base in zip(AREA["rotograd"], AREA[SINGLE], strict=True)]
    low, high = stats.t.interval(0.95, 2, sum(gain) / 3, stats.sem(gain))
    found = verdict(study, "gain in area of rotograd > 0")
    assert found.verdict == "undecided"
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), rel=1e-9)  # digits cancel
    assert verdict(study, "delta_m of uniform > 0").verdict == "refuted"
    assert verdict(study, "delta_m of rotograd > delta_m of uniform").verdict == "confirmed"


def test_delta_m_is_that_of_the_study(study):
    negative = Comparison(study.outcomes, Context(delta={"better": "negative"}))
    assert verdict(negative, "delta_m of uniform > 0").verdict == "confirmed"  # for which more is worse
    means = Comparison(study.outcomes, Context(delta={"seeds": "means"}))
    found = verdict(means, "delta_m of uniform > 0")
    assert (found.verdict, found.n) == ("undecided", 0)
    assert "no value by seed" in found.sentence


def test_a_missing_figure_is_always_undecided(tmp_path):
    study = Comparison([read_outcome(entry) for entry in entries(tmp_path, seeds=(0, 1, 2, 3))[:-1]])
    found = verdict(study, "depth/abs of rotograd < depth/abs of uniform")
    assert (found.verdict, found.n) == ("undecided", 3)  # the interval is there, and below 0
    assert found.difference.high < 0
    assert found.sentence.endswith("rotograd has no such figure of seed 3.")
    assert verdict(study, "delta_m of rotograd > 0").sentence.endswith("rotograd has no such figure of seed 3.")
    assert verdict(study, "step_time of rotograd > 0").verdict == "undecided"
    assert verdict(study, "depth/abs of uniform > depth/abs of single-task").verdict == "confirmed"
    assert "gradnorm has no finished run" in verdict(study, "depth/abs of gradnorm < 1").sentence
    assert "Did you mean 'depth/abs'" in verdict(study, "depth/abz of rotograd < 1").sentence
    assert "must name one metric" in verdict(study, "depth of rotograd < 1").sentence
    assert "no gain in sky" in verdict(study, "gain in sky of rotograd > 1").sentence


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_are_undecided(tmp_path, seeds):
    study = compare(tmp_path, seeds=seeds)
    found = verdict(study, "depth/abs of rotograd < depth/abs of uniform")
    assert (found.verdict, found.n, found.difference.low) == ("undecided", len(seeds), None)
    assert found.sentence.endswith("It takes at least 3 seeds.")


def test_without_common_seeds_and_without_single_task_runs(tmp_path):
    found = entries(tmp_path, seeds=(0,), methods=("uniform",), single=False)
    other = entries(tmp_path / "other", seeds=(1,), methods=("rotograd",), single=False)
    study = Comparison([read_outcome(entry) for entry in (*found, *other)])
    none = verdict(study, "depth/abs of rotograd < depth/abs of uniform")
    assert (none.verdict, none.difference, none.n) == ("undecided", None, 0)
    assert "rotograd has no such figure of seed 0. uniform has no such figure of seed 1." in none.sentence
    assert "no single-task runs" in verdict(study, "delta_m of rotograd > 0").sentence


def test_the_number_of_claims_is_said(study):
    texts = ("depth/abs of rotograd < 1", "depth/abs of rotograd > 1", "depth/abs of rotograd < 0.48")
    first, *rest = judged([verdict(study, text) for text in texts])
    assert first == (
        "3 claims: 1 confirmed, 1 refuted, 1 undecided. Each verdict stands alone at 95 %; nothing is adjusted for "
        "their number."
    )
    assert len(rest) == 3
    assert list(judged([])) == []


def test_what_limits_a_verdict_is_said(study, tmp_path):
    shared = Comparison(study.outcomes, Context(at_a_time=2))
    assert "2 runs shared the machine" in verdict(shared, "step_time of rotograd > 0").sentence
    tested = [entry.run for entry in entries(tmp_path, seeds=(0,), methods=("uniform",), single=False)]
    log = tested[0] / "metrics.jsonl"
    log.write_text(log.read_text().replace('"validation": "val"', '"validation": "test"'))
    on_test = Comparison([read_outcome(Entry("uniform", 0, tested[0]))])
    assert "TEST DATA" in verdict(on_test, "depth/abs of uniform > 0").sentence
