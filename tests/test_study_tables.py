"""The text results of a study: read back from CSV, Markdown and LaTeX, and against arithmetic by hand or SciPy."""

import csv
import io
import re
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from studies import FIGURES, compare, entries, write_run
from wide_studies import study as wide_study

from mtlkit.study.claims import parse_claim
from mtlkit.study.comparison import Comparison, Context, Trial
from mtlkit.study.numbers import fixed, interval_text, mean_text, p_text
from mtlkit.study.outcome import SINGLE, Entry, read_outcome
from mtlkit.study.results_csv import RESULTS, write_results, write_tuning
from mtlkit.study.statistics import Summary, summarise
from mtlkit.study.table_rows import Cell, Column, Table, differing, main_table
from mtlkit.study.tables import latex, markdown, terminal
from mtlkit.study.verdicts import judge
from mtlkit.terminal import Terminal

ODD = r"a_b|c &50%#$~^\{x} [y] *z* <w>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("study"))


def renamed(study, names, context=None):
    """Returns the comparison with other names of methods."""
    outcomes = [
        replace(one, entry=replace(one.entry, method=names.get(one.entry.method, one.entry.method)))
        for one in study.outcomes
    ]
    return Comparison(outcomes, context)


def sections(text):
    """Parses Markdown: the lines below each heading."""
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in re.split(r"^#+ ", text, flags=re.M)[1:]}


def table(text):
    """Parses a table of Markdown: a dict per row."""
    lines = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in text.splitlines() if line.startswith("|")]
    plain = [[re.sub(r"\\(.)", r"\1", cell) for cell in line] for line in lines]
    assert all(len(line) == len(plain[0]) for line in plain)
    return [dict(zip(plain[0], line, strict=True)) for line in plain[2:]]


def shown(study, width=100, **options):
    console = Terminal(width=width, record=True, file=io.StringIO())
    console.print(terminal(study, width=width, **options))
    return console.export_text()


def balanced(text):
    """Checks that braces and environments of LaTeX are balanced, and that no row has another number of cells."""
    depth = 0
    for line in text.splitlines():
        for char in re.sub(r"\\.", "", line) if not line.startswith("%") else "":
            depth += {"{": 1, "}": -1}.get(char, 0)
            assert depth >= 0, line
        assert depth == 0, line
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(.*?)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        for row in re.findall(r"^ *(.*) \\\\$", body, re.M):
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1, row


# -- numbers ------------------------------------------------------------------------------------------------------


def around(mean, half, n=3):
    return Summary(mean, n, mean - half, mean + half)


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (around(0.38214, 0.00421), "0.3821 ± 0.0042"),
        (around(0.5, 0.0996), "0.50 ± 0.10"),  # two digits after rounding
        (around(12.345, 5.0), "12.3 ± 5.0"),
        (around(1234.5, 123.0), "1230 ± 120"),
        (around(0.001, 3.0), "0.0 ± 3.0"),
        (around(-0.001, 3.0), "0.0 ± 3.0"),
        (around(0.5, 0.0), "0.5000 ± 0"),
        (around(1.2345e-6, 2e-7), "(1.23 ± 0.20)e-6"),
        (around(3.2e8, 1e7), "(3.20 ± 0.10)e8"),
        (Summary(0.38214, 2), "0.3821"),
        (Summary(12345.6, 2), "12350"),
        (Summary(0.0, 1), "0"),
        (Summary(1.23456e-7, 1), "1.235e-7"),
        (None, "–"),
    ],
)
def test_the_interval_decides_the_digits(summary, text):
    assert mean_text(summary) == text


def test_signs_counts_and_ends():
    assert mean_text(around(0.5, 0.1, n=4), seeds=5, signed=True) == "+0.50 ± 0.10 (n=4)"
    assert mean_text(around(0.5, 0.1), seeds=3, interval=False) == "0.50"
    assert mean_text(summarise([0.1 + 0.2, 0.3, 0.3])) == "0.3000 ± 0"  # they differ by rounding only
    assert interval_text(around(0.06, 0.0421)) == "0.018 to 0.102"
    assert interval_text(Summary(1.0, 2)) == "–"
    assert (fixed(-0.001, 2, signed=True), p_text(0.0), p_text(0.5)) == ("0.00", "<1e-6", "0.5")


# -- CSV ----------------------------------------------------------------------------------------------------------


def test_results_are_read_back_in_full(study, tmp_path):
    study = renamed(study, {"rotograd": 'roto, "W" é'})
    write_results(study, tmp_path / "results.csv")
    raw = (tmp_path / "results.csv").read_bytes()
    assert raw.startswith(b"method,settings,seed,task,metric,split,value,")
    assert b"\r" not in raw
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == RESULTS
    assert len(rows) == 3 * (2 * 3 + 3) + 2 * 3 * (1 + 1 + 1 + 1)  # metrics, and two rows of cost for 12 runs
    for name, method in ((SINGLE, SINGLE), ("uniform", "uniform"), ('roto, "W" é', "rotograd")):
        for key, (start, slope) in FIGURES[method].items():
            of = [row for row in rows if (row["method"], f"{row['task']}/{row['metric']}") == (name, key)]
            assert {int(row["seed"]): float(row["value"]) for row in of} == {s: start + s * slope for s in range(3)}
            assert {row["single_task"] for row in of} == {str(method == SINGLE).lower()}
    first = next(row for row in rows if row["method"] == "uniform")
    assert first == {
        **{"method": "uniform", "settings": "", "seed": "0", "task": "depth", "metric": "abs", "split": "val"},
        **{"value": "0.52", "unit": "m", "higher_is_better": "false", "kind": "val figures of the last evaluation"},
        **{"step": "40", "protocol": "strict", "decoders": "decoders get the plain gradient of their own loss"},
        **{"single_task": "false", "run": str(study.of("uniform")[0].entry.run)},
    }
    costs = [row for row in rows if not row["task"] and row["method"] == "uniform"]
    assert [(row["metric"], float(row["value"]), row["unit"]) for row in costs[:2]] == [
        ("step_time", 0.010, "s"),
        ("peak_memory", 300 * 2**20, "bytes"),
    ]


def test_no_value_is_empty(tmp_path):
    run = write_run(tmp_path / "a", figures={"depth/abs": 0.5, "area/miou": 0.5})
    log = run / "metrics.jsonl"
    log.write_text(
        log.read_text().replace('"area/miou": 0.5', '"area/miou": null').replace('"peak_memory": 3', '"x": 3')
    )
    study = Comparison([read_outcome(Entry("uniform", 0, run))])
    write_results(study, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        values = {row["metric"]: row["value"] for row in csv.DictReader(file)}
    assert values == {"abs": "0.5", "miou": "", "step_time": "0.01", "peak_memory": ""}


def test_tuning_is_a_file_of_its_own(study, tmp_path):
    trials = [Trial("uniform", "trainer.lr=0.1", (5, 6), 0.25, True), Trial(SINGLE, "a, b", (5,), None, task="depth")]
    write_tuning(Comparison(study.outcomes, Context(trials=trials)), tmp_path / "tuning.csv")
    with (tmp_path / "tuning.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["method", "task", "words", "seeds", "score", "chosen"],
            ["uniform", "", "trainer.lr=0.1", "5 6", "0.25", "true"],
            [SINGLE, "depth", "a, b", "5", "", "false"],
        ]


# -- Markdown -----------------------------------------------------------------------------------------------------


def test_the_main_table_by_hand(study):
    found = {row["method"]: row for row in table(sections(markdown(study))["Results"])}
    assert list(found) == [SINGLE, "uniform", "rotograd"]
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)  # 0.0248
    assert f"{half:.3f}" == "0.025"
    assert found["rotograd"]["depth/abs ↓ (m)"] == "**0.480 ± 0.025**"
    assert found[SINGLE]["depth/abs ↓ (m)"] == "0.510 ± 0.025"
    assert found["uniform"]["area/miou ↑"] == "0.370 ± 0.025"
    assert found["uniform"]["step time ↓ (ms)"] == "11.0 ± 2.5"
    assert found["uniform"]["memory ↓ (MiB)"] == "301.0 ± 2.5"
    assert (found["rotograd"]["rank ↓"], found["uniform"]["worse tasks"]) == ("1.00", "2/2")
    assert (found[SINGLE]["Δm ↑ (%)"], found[SINGLE]["rank ↓"]) == ("–", "–")
    depth = [
        50 * (2 - (0.52 + s * 0.02) / (0.50 + s * 0.01) - (0.21 + s * 0.002) / (0.20 + s * 0.004)) for s in range(3)
    ]
    area = [100 * ((0.36 + s * 0.01) / (0.40 + s * 0.01) - 1) for s in range(3)]
    delta = np.add(depth, area) / 2
    assert found["uniform"]["Δm ↑ (%)"] == f"{delta.mean():.2f} ± {stats.sem(delta) * stats.t.ppf(0.975, 2):.2f}"


def test_gains_and_differences_by_hand(study):
    found = sections(markdown(study))
    gains = {row["method"]: row for row in table(found["Gain per task over single-task in %, positive is better"])}
    area = [100 * ((0.36 + s * 0.01) / (0.40 + s * 0.01) - 1) for s in range(3)]
    assert gains["uniform"]["area ↑"].startswith(f"{fmean(area):.2f} ± ")
    assert list(gains) == ["uniform", "rotograd"]
    rows = table(found["Paired differences to uniform"])
    one = next(row for row in rows if (row["metric"], row["method"]) == ("depth/abs", "rotograd"))
    theirs = stats.ttest_rel([0.47, 0.48, 0.49], [0.52, 0.54, 0.56])
    low, high = theirs.confidence_interval()
    assert (one["difference"], one["95 % interval"], one["n"]) == ("-0.060", f"{low:.3f} to {high:.3f}", "3")
    assert float(one["p (Holm)"]) >= theirs.pvalue
    assert one["at 5 %"] == "better"
    assert len(rows) == 6  # three metrics, and two rows beside the reference


def test_within_noise_is_marked_and_explained(tmp_path):
    outcomes = []
    for method, figures in {"uniform": (0.50, 0.53, 0.52), "rotograd": (0.51, 0.52, 0.50)}.items():
        for seed, figure in enumerate(figures):
            run = write_run(tmp_path / f"{method}{seed}", method, seed, {"depth/abs": figure})
            outcomes.append(read_outcome(Entry(method, seed, run)))
    low, high = stats.ttest_rel((0.50, 0.53, 0.52), (0.51, 0.52, 0.50)).confidence_interval()
    assert low <= 0 <= high
    study = Comparison(outcomes)
    cells = main_table(study).columns[1].cells
    assert [cell.mark for cell in cells] == ["near", "best"]
    text = sections(markdown(study))["Results"]
    assert [row["depth/abs ↓ (m)"][-1] for row in table(text)] == ["≈", "*"]
    assert "≈ marks: within noise" in text
    assert r"\underline{0.517 $\pm$ 0.038}" in latex(study)
    assert "underlined: within noise" in latex(study)
    assert "0.517 ± 0.038 ≈" in shown(study)


def test_all_definitions_stand_side_by_side(study):
    found = table(sections(markdown(study, all_definitions=True))["Δm in %, in all definitions, positive is better"])
    assert [row["method"] for row in found] == ["uniform", "rotograd"]
    assert len(found[0]) == 5
    assert "all definitions" not in markdown(study)


def test_the_definition_asked_for(study):
    negative = Comparison(study.outcomes, Context(delta={"better": "negative", "average": "metrics"}))
    text = markdown(negative)
    found = {row["method"]: row["Δm ↓ (%)"] for row in table(sections(text)["Results"])}
    assert found["rotograd"].startswith("**-2.8")
    assert "negative is better, mean over metrics" in text


def test_what_a_reader_must_know_is_there(study):
    trials = [
        Trial(method, f"trainer.lr={lr}", (100, 101), score, score < 0.6)
        for method in ("uniform", "rotograd")
        for lr, score in ((0.1, 0.5), (0.3, 0.7))
    ]
    context = Context(
        "rooms", trials=trials, at_a_time=2, command="mtlkit compare `x`", failed=[("m, seed 0", "it|broke")]
    )
    claims = [judge(study, parse_claim("depth/abs of rotograd < depth/abs of uniform"))]
    text = markdown(Comparison(study.outcomes, context), verdicts=claims)
    found = sections(text)
    assert "1 claim: 1 confirmed, 0 refuted, 0 undecided." in found["Claims"]
    assert r"Failed: m, seed 0. it\|broke" in found["Remarks"]
    assert "6 blocks, each of one task and one seed" in found["How to read the numbers"]
    critical = stats.studentized_range.ppf(0.95, 2, np.inf) / np.sqrt(2) * np.sqrt(2 * 3 / (6 * 6))
    assert f"Critical difference of two mean ranks at 5 % (Nemenyi): {critical:.2f}." in text
    assert "Δm: positive is better, mean over tasks" in text
    assert "Budget: 2 settings with 4 runs for each of uniform, rotograd." in found["Tuning"]
    assert "rotograd uses trainer.lr=0.1 (score 0.5)" in found["Tuning"]
    made = found["How the runs were made"]
    for part in (
        *("In training: decoders get the plain gradient", "Protocol: strict.", "val figures of the last evaluation"),
        *("Memory is the peak: of the process.", "2 runs at a time", "torch 2.14.1"),
    ):
        assert part in made
    assert text.endswith("```\nmtlkit compare `x`\n```\n")


def test_unequal_budgets_and_settings_are_said(study):
    trials = [Trial("uniform", "a", (1,), 0.5), Trial("rotograd", "a", (1,), 0.5), Trial("rotograd", "b", (1,), None)]
    outcomes = [replace(one, entry=replace(one.entry, settings=f"lr {one.entry.method}")) for one in study.outcomes]
    text = markdown(Comparison(outcomes, Context(trials=trials)))
    assert "The budgets are NOT equal: uniform 1 setting with 1 run, rotograd 2 settings with 2 runs." in text
    assert "uniform uses none of the settings." in text
    assert "Settings of rotograd: lr rotograd." in text


def test_odd_names_are_escaped(study):
    study = renamed(study, {"rotograd": ODD}, Context(title="50 % | x_y"))
    found = table(sections(markdown(study))["Results"])
    assert [row["method"] for row in found] == [SINGLE, "uniform", ODD]
    text = latex(study)
    balanced(text)
    name = r"a\_b\textbar{}c \&50\%\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{x\} {[}y] {*}z{*}"
    assert f"    {name} \\textless{{}}w\\textgreater{{}} & " in text
    assert ODD in shown(study, width=140)  # and "[y]" is not taken for a style


def test_the_table_of_a_paper(study):
    text = latex(study)
    balanced(text)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 2
    assert r"\textbf{0.480 $\pm$ 0.025}" in text
    assert r"$-$7.33 $\pm$ 0.19" in text
    assert r"single-task & 0.510 $\pm$ 0.025" in text
    assert "Figures: val figures of the last evaluation, means over the seeds 0, 1, 2" in text
    assert re.search(r"[^\x00-\x7f]", text) is None


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_have_no_interval(tmp_path, seeds):
    study = compare(tmp_path, seeds=seeds)
    text = markdown(study)
    assert "±" not in text
    assert "there are no intervals and no tests" in text
    mean = fmean(0.47 + seed * 0.01 for seed in seeds)
    assert table(sections(text)["Results"])[2]["depth/abs ↓ (m)"] == f"**{mean:.4f}**"
    assert {row["95 % interval"] for row in table(sections(text)["Paired differences to uniform"])} == {"–"}
    assert "nothing is known about noise" in latex(study)
    assert "±" not in shown(study)


def test_a_missing_run_and_a_missing_figure(tmp_path):
    found = entries(tmp_path)[:-1]  # the last run is rotograd's of seed 2
    study = Comparison([read_outcome(entry) for entry in found], Context(failed=[("rotograd, seed 2", "It broke.")]))
    text = markdown(study)
    row = table(sections(text)["Results"])[2]
    assert (row["depth/abs ↓ (m)"], row["rank ↓"]) == ("**0.4750 (n=2)**", "–")
    assert "Failed: rotograd, seed 2. It broke." in text
    assert "No rank, because a figure is missing: rotograd." in text
    outcomes = [
        replace(one, figures={**one.figures, "area/miou": None}) if one.entry.method == "rotograd" else one
        for one in study.outcomes
    ]
    none = Comparison(outcomes)
    row = table(sections(markdown(none))["Results"])[2]
    assert (row["area/miou ↑"], row["Δm ↑ (%)"], row["worse tasks"]) == ("–", "–", "0/1")
    assert "No Δm of rotograd: DeltaM: the method has no figure 'area/miou'" in re.sub(r"\\", "", markdown(none))
    assert "| area/miou | rotograd | – | – | – | 0 |  |" in markdown(none)
    balanced(latex(none))
    assert "rotograd" in shown(none)


def test_without_single_task_runs(tmp_path):
    study = compare(tmp_path, single=False)
    text = markdown(study)
    assert "Gain per task over uniform" in text
    assert "against uniform, with the same seeds" in text
    assert "own single-task runs" not in text
    assert [row["method"] for row in table(sections(text)["Results"])] == ["uniform", "rotograd"]
    alone = Comparison(study.of("uniform"))
    assert "**" not in sections(markdown(alone))["Results"].split("Bold")[0]  # one method is not the best of any
    balanced(latex(alone))
    assert "uniform" in shown(alone)


def test_test_data_are_loud(tmp_path):
    run = write_run(tmp_path / "a", validation="test", selection="best")
    log = run / "metrics.jsonl"
    log.write_text(
        log.read_text().replace('"step": 40, "epoch": 0, "split": "val"', '"step": 40, "split": "val", "best": true')
    )
    study = Comparison([read_outcome(Entry("uniform", 0, run))])
    assert study.on_test
    for text in (markdown(study), latex(study), shown(study)):
        assert "TEST DATA" in text
        assert "selected on test data" in text


# -- terminal -----------------------------------------------------------------------------------------------------


def wide(tmp_path, tasks):
    """Returns a study with two metrics for each of many tasks."""
    outcomes = []
    for seed in range(3):
        for method, shift in ((SINGLE, 0.0), ("uniform", 0.03), ("gradnorm with a name", -0.02)):
            run = write_run(tmp_path / f"{method}{seed}", "uniform", seed, task="depth")
            one = read_outcome(Entry(method, seed, run, task="all" if method == SINGLE else ""))
            metric = one.metrics["depth/abs"]
            keys = [f"task{place}/{name}" for place in range(tasks) for name in ("abs", "rel")]
            figures = {key: 0.5 + shift + 0.02 * seed * (1 + shift) + 0.01 * n for n, key in enumerate(keys)}
            metrics = {key: replace(metric, key=key) for key in keys}
            outcomes.append(replace(one, figures=figures, metrics=metrics))
    return Comparison(outcomes)


@pytest.mark.parametrize("tasks", [4, 10])
def test_many_tasks_fit_and_numbers_stay_with_their_names(tmp_path, tasks):
    study = wide(tmp_path, tasks)
    text = shown(study)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    blocks = re.findall(r"^ ─+ *$\n((?:.*\n){3})", text, re.M)
    assert len(blocks) == 1 if tasks == 4 else len(blocks) > 1
    for block in blocks:
        assert [line.split("  ")[0].strip() for line in block.splitlines()] == [
            SINGLE,
            "uniform",
            "gradnorm with a name",
        ]
    assert "Gains over single-task in %" in text
    assert all(f"task{place}" in text for place in range(tasks))


def test_few_metrics_are_shown_themselves(study):
    assert "0.480 ± 0.025" in shown(study, width=140)
    assert "Gains over" not in shown(study, width=140)


def test_verdicts_are_in_the_terminal(study):
    found = shown(study, verdicts=[judge(study, parse_claim("delta_m of uniform > 0"))])
    assert "delta_m of uniform > 0: refuted" in found


def test_parts_repeat_the_names_and_lose_no_column():
    columns = [Column(name, "", [Cell(name)]) for name in "kabcde"]
    parts = list(Table("t", columns).parts(lambda some: len(some) <= 3))
    assert ["".join(column.name for column in part.columns) for part in parts] == ["kab", "kcd", "ke"]
    never = list(Table("t", columns).parts(lambda some: False))
    assert len(never) == 5


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("count", [3, 12])
def test_of_many_tasks_the_terminal_shows_those_on_which_the_methods_differ(tmp_path, width, count):
    methods = {f"method_{i}": (float(i), 0.1) for i in range(count)}
    found = wide_study(tmp_path, methods=methods, tasks=[f"task_{i}" for i in range(12)], seeds=1)
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert len(set(re.findall(r"task_\d+", text))) == 3
    assert "Shown are the 3 of 12 tasks" in text
    assert "compare.html and table.md have all" in " ".join(text.split())
    assert all(len(re.findall(rf"^ *{name} ", text, re.M)) >= 1 for name in methods)


def test_the_tasks_on_which_methods_differ(monkeypatch):
    values = {"a": {"x": 1.0, "y": 5.0, "z": 0.0, "w": 1.0}, "b": {"x": 2.0, "y": -5.0, "z": 9.0}, "c": {"x": 1.5}}
    monkeypatch.setattr(
        "mtlkit.study.table_rows.gains",
        lambda _, row: {task: Summary(value, 1) for task, value in values[row].items()},
    )
    found = SimpleNamespace(rows=["base", *values], base="base", tasks=["v", "w", "x", "y", "z"])
    assert differing(found) == ["y", "z", "x"]
