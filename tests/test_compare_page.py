"""The page of a comparison: its numbers against the comparison, its text, and how it behaves in a browser."""

import csv
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from browser import browse, contrast, luminance, needs_chromium, on_a_phone
from studies import FIGURES, compare, entries, write_run
from tolerances import ROUNDING
from wide_studies import study

from mtlkit.study.claims import parse_claim
from mtlkit.study.comparison import Comparison, Context, Trial
from mtlkit.study.gains import all_deltas, delta, gains
from mtlkit.study.outcome import SINGLE, Entry, read_outcome
from mtlkit.study.page import write_page
from mtlkit.study.ranking import ranks
from mtlkit.study.verdicts import judge

PRINTED = 6e-6  # CSV has six significant digits, so half a unit of the sixth at most


class Reader(HTMLParser):
    """Reads a page on its own: tables by name as lists of texts, links to data, drawings, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.csv, self.drawings, self.text, self.scripts = {}, {}, [], "", 0
        self.rows = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.rows = self.tables.setdefault(attrs.get("data-name", f"other{len(self.tables)}"), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "small" and self.rows and self.rows[-1]:
            self.rows[-1][-1] += " "
        if tag == "a":
            data = unquote(attrs["href"].removeprefix("data:text/csv;charset=utf-8,"))
            self.csv[attrs["download"]] = list(csv.DictReader(io.StringIO(data)))
        if tag == "svg":
            self.drawings.append(attrs)
        self.scripts += tag == "script"

    def handle_endtag(self, tag):
        if tag == "table":
            self.rows = None

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def page_of(comparison, folder, verdicts=()):
    path = folder / "compare.html"
    write_page(comparison, path, verdicts)
    text = path.read_text()
    return text, Reader(text)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return study(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def page(wide, tmp_path_factory):
    return page_of(wide, tmp_path_factory.mktemp("page"))[1]


def numbers(text):
    return [float(found) for found in re.findall(r"-?\d+\.?\d*", text.replace("−", "-"))]


def close(value, expected):
    return value == "" if expected is None else float(value) == pytest.approx(expected, rel=PRINTED, abs=PRINTED)


def test_the_table_of_results_is_that_of_the_comparison(page, wide):
    rows = {row[0]: row[1:] for row in page.tables["summary"][2:]}
    assert list(rows) == wide.rows
    for row, cells in rows.items():
        for metric, cell in zip(wide.metrics, cells, strict=False):
            one, (mean, half) = wide.summary(row, metric.key), numbers(cell)
            unit = 10.0 ** -len(cell.split()[0].partition(".")[2])
            assert mean == pytest.approx(one.mean, abs=unit / 2 + ROUNDING)
            assert half == pytest.approx(one.half, abs=unit / 2 + ROUNDING)
        found = cells[len(wide.metrics) :]
        if row != SINGLE:
            assert numbers(found[0])[0] == pytest.approx(delta(wide, row).value, abs=0.005)  # two decimals
            assert numbers(found[1]) == [pytest.approx(ranks(wide).mean[row], abs=0.005)]  # two decimals


def test_best_is_bold_and_what_is_within_noise_is_underlined(wide, tmp_path):
    text, _ = page_of(wide, tmp_path)
    body = text[text.index('data-name="summary"') :].split("</table>")[0].split("<tbody>")[1]
    cells = {re.search(r'class="name">(.*?)<', row)[1]: row.split("<td")[1:] for row in body.split("<tr")[1:]}
    for place, metric in enumerate(wide.metrics):
        best, near = wide.best(metric)
        assert [row for row in cells if "<b>" in cells[row][place]] == [best]
        assert {row for row in cells if "<u>" in cells[row][place]} == near


def test_downloads_hold_the_numbers_of_the_comparison(page, wide):
    for one in page.csv["differences.csv"]:
        expected = wide.difference(one["method"], one["metric"])
        assert all(close(one[a], getattr(expected, b)) for a, b in (("difference", "mean"), ("low", "low")))
        assert close(one["p_holm"], expected.holm)
    for one in page.csv["gains.csv"]:
        if one["task"] != "delta_m":
            expected = gains(wide, one["method"])[one["task"]]
            assert close(one["gain in %"], expected.mean)
            assert close(one["high"], expected.high)
    for one in page.csv["delta_m.csv"]:
        assert all(close(one[row], all_deltas(wide, row)[one["definition"]].value) for row in wide.methods)
    for one in page.csv["ranks.csv"]:
        assert close(one["mean rank"], ranks(wide).mean[one["method"]])
    summary = [one for one in page.csv["results_summary.csv"] if one["metric"] != "delta_m"]
    assert len(summary) == len(wide.rows) * len(wide.metrics)
    assert all(close(one["mean"], wide.summary(one["method"], one["metric"]).mean) for one in summary)


def test_learning_curves_are_means_over_seeds(page, wide):
    found = page.csv["learning_curves.csv"]
    assert {one["metric"] for one in found} == {metric.key for metric in wide.metrics}
    for one in found:
        values = []
        for run in wide.of(one["method"]):
            for steps, values_of_run in run.history.series("val", [one["metric"]]).values():
                values += [float(v) for s, v in zip(steps, values_of_run, strict=True) if s == float(one["step"])]
        assert close(one["mean"], sum(values) / len(values))
        assert close(one["lowest"], min(values))
        assert close(one["highest"], max(values))


def test_conflict_and_weights_are_means_over_pairs_and_seeds(page, wide):
    one = page.csv["conflict.csv"][0]
    values = []
    for run in wide.of(one["method"]):
        record = next(r for r in run.history.records if r["split"] == "train" and r["step"] == float(one["step"]))
        cosines = [value for key, value in record.items() if key.startswith("cosine/")]
        values.append(sum(cosines) / len(cosines))
    assert close(one["mean"], sum(values) / len(values))
    assert {one["task"] for one in page.csv["weights.csv"]} == set(wide.tasks)


def test_every_table_of_numbers_is_also_a_download(page):
    for name, rows in page.tables.items():
        if name in ("summary", "differences", "delta_m") or name.startswith("other"):
            continue
        downloaded = page.csv[f"{name}.csv"]
        assert len(downloaded) == len(rows) - 1
        for one, row in zip(downloaded, rows[1:], strict=True):
            for cell, value in zip(row, one.values(), strict=True):
                if cell not in (value, "–"):
                    assert float(cell) == pytest.approx(float(value), rel=6e-4)  # four digits are shown


def test_every_drawing_has_a_text_alternative(page):
    drawings = [one for one in page.drawings if "aria-hidden" not in one]
    assert len(drawings) > 12
    assert all(one["role"] == "img" and len(one["aria-label"]) > 20 for one in drawings)
    assert page.scripts == 0


def test_the_answer_says_what_is_best_and_whether_that_is_noise(page, tmp_path):
    assert "rotograd is best on average: Δm +3.6 % (95 % interval +2.6 to +4.5)" in page.text
    assert "more than noise against uniform, gradnorm and pcgrad" in page.text
    assert "cannot be told apart from nash" in page.text


def test_names_are_escaped(tmp_path):
    bad = '<script>alert("1")</script> & co'
    names = {"uniform": "uniform", "rotograd": bad}
    found = [Entry(names.get(e.method, e.method), e.seed, e.run, e.task) for e in entries(tmp_path)]
    context = Context(bad, failed=[(bad, bad)], trials=[Trial(bad, bad, (9,), 0.5, True)], command=bad, notes=[bad])
    comparison = Comparison([read_outcome(e) for e in found], context)
    claim = parse_claim(f"depth/abs of {bad.replace('<', '&lt;').replace('>', '&gt;')} < depth/abs of uniform")
    text, page = page_of(comparison, tmp_path, [judge(comparison, claim)])
    assert "<script" not in text
    assert page.scripts == 0
    assert page.text.count(bad) > 10
    assert page.csv["ranks.csv"][0]["method"] in (bad, "uniform")


def test_one_seed_has_no_intervals_and_says_so(tmp_path):
    _, page = page_of(compare(tmp_path, seeds=(0,)), tmp_path)
    assert "1 seed: below 3, there are no intervals" in page.text
    assert "Whether that is more than noise is unknown" in page.text
    assert "±" not in "".join(cell for row in page.tables["summary"] for cell in row)
    assert all(one["low"] == "" for one in page.csv["gains.csv"])


def test_without_single_task_runs_gains_are_over_the_reference(tmp_path):
    comparison = compare(tmp_path, single=False)
    _, page = page_of(comparison, tmp_path)
    assert "over uniform" in page.text
    assert {one["method"] for one in page.csv["gains.csv"]} == {"rotograd"}


def test_missing_figures_leave_a_dash(tmp_path):
    found = entries(tmp_path, seeds=(0, 1, 2))
    partial = {"depth/abs": 0.4, "depth/rel": None, "area/miou": 0.4}
    found.append(Entry("partial", 0, write_run(tmp_path / "partial", "uniform", 0, partial | {"depth/rel": 0.2})))
    outcomes = [read_outcome(entry) for entry in found]
    outcomes[-1].figures["depth/rel"] = None
    _, page = page_of(Comparison(outcomes), tmp_path)
    cells = next(row for row in page.tables["summary"] if row[0] == "partial")
    assert cells[2] == "–"
    assert "n = 1" in cells[1]
    assert "Without partial: figures are missing." in page.text
    assert "No Δm of partial." in page.text


def test_test_data_is_labelled(tmp_path):
    found = entries(tmp_path, single=False)
    for entry in found:
        log = entry.run / "metrics.jsonl"
        log.write_text(log.read_text().replace('"validation": "val"', '"validation": "test"'))
    text, page = page_of(Comparison([read_outcome(entry) for entry in found]), tmp_path)
    assert '<strong class="test">Test data</strong>' in text
    assert "On test data." in page.text


def test_tuning_failures_and_verdicts_are_shown(tmp_path):
    trials = [Trial("rotograd", "trainer.lr=0.1", (7, 8), 0.25, True), Trial("rotograd", "trainer.lr=1", (7, 8), None)]
    context = Context("t", failed=[("nash, seed 0", "It diverged.")], trials=trials, command="mtlkit compare a b")
    claim = parse_claim("depth/abs of rotograd < depth/abs of uniform")
    comparison = compare(tmp_path, context)
    _, page = page_of(comparison, tmp_path, [judge(comparison, claim)])
    assert [one["figure"] for one in page.csv["tuning.csv"]] == ["0.25", ""]
    for words in (
        "Equal budgets: 4 runs each",
        "nash, seed 0: It diverged.",
        "mtlkit compare a b",
        str(claim),
        "confirmed",
    ):
        assert words in page.text


def test_a_delta_whose_gain_is_negative_is_turned_around_in_the_figures(tmp_path):
    comparison = compare(tmp_path, Context(delta={"better": "negative"}))
    _, page = page_of(comparison, tmp_path)
    drawn = {one["method"]: float(one["gain in %"]) for one in page.csv["gains.csv"] if one["task"] == "delta_m"}
    assert drawn["rotograd"] == pytest.approx(-delta(comparison, "rotograd").value, rel=PRINTED)
    assert "unlike in the table" in page.text


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Returns the page of twelve methods, some with long names, and forty tasks."""
    folder = tmp_path_factory.mktemp("large")
    methods = {f"method {i}" + " with a long name, option=value" * (i % 3 == 2): (i - 5, 2.0) for i in range(12)}
    comparison = study(folder, methods=methods, tasks=[f"task_with_a_long_name_{i}" for i in range(40)], seeds=3)
    return comparison, *page_of(comparison, folder)


def test_forty_tasks_and_twelve_methods(large):
    comparison, text, page = large
    assert len(text.encode()) < 1_000_000
    assert "Drawn are the 8 of 40 tasks that change most" in page.text
    assert len(page.csv["gains.csv"]) == 12 * 41
    forest = [one for one in page.drawings if one.get("aria-label", "").startswith("Forest")]
    assert len(forest) == 9
    found = [gains(comparison, row) for row in comparison.methods]
    change = {task: max(abs(one[task].mean) for one in found) for task in comparison.tasks}
    for task in sorted(change, key=change.get)[-8:]:
        assert any(f", {task}:" in one["aria-label"] for one in forest)


@needs_chromium
def test_in_a_browser_at_390_px_in_the_dark_and_on_paper(large, tmp_path):
    found = on_a_phone(large[1], tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    assert found["width"] == "390 of 390"
    assert found["reach"] == "true"
    assert found["cut"] == ""
    ink, paper = found["colours"].split(" on ")
    assert luminance(paper) < luminance(ink)  # the page is dark, the text light
    assert contrast(ink, paper) > 7
    browse(tmp_path / "probe.html", f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_figures_are_those_of_the_small_study(tmp_path):
    _, page = page_of(compare(tmp_path), tmp_path)
    by_hand = FIGURES["rotograd"]["depth/abs"][0] + FIGURES["rotograd"]["depth/abs"][1]  # the mean of seeds 0, 1, 2
    cell = next(row for row in page.tables["summary"] if row[0] == "rotograd")[1]
    assert numbers(cell)[0] == pytest.approx(by_hand, abs=ROUNDING)
