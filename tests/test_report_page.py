"""The page of a run: its four answers, its figures against the log, complete and broken runs, and a browser."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from browser import PROBE, browse, contrast, luminance, needs_chromium, on_a_phone
from looks import write_looks
from PIL import Image
from scipy import stats
from tolerances import ROUNDING

from mtlkit.report import save_pictures, write_report
from mtlkit.report.classes import calibration_error
from mtlkit.report.details import Bin, Reliability
from mtlkit.report.embedding import LIMIT, Embedder
from mtlkit.report.gradients import interval

QUESTIONS = ["Did it work?", "Did the tasks help or hurt each other?", "How was it trained?"]
INFO = {
    "step": 0,
    "split": "info",
    "total_steps": 20,
    "batch_size": 32,
    "versions": {"torch": "2.99"},
    "command": "mtlkit train rooms",
    "commit": {"hash": "abc123", "changed": True},
    "device": "a processor",
    "higher_is_better": {"depth/abs": False, "depth/delta": True, "depth/bias": None, "parts/miou": True},
    "units": {"depth/abs": "m"},
}
CONSTANT = {
    "step": 0,
    "split": "val_constant",
    "depth/abs": 2.0,
    "depth/delta": 0.0,
    "depth/bias": 0.5,
    "parts/miou": 0.25,
}
UNTRAINED = {"step": 0, "split": "val", "depth/abs": 4.0, "depth/bias": 0.75, "loss/depth": 3.0, "parts/miou": 0.125}
TRAIN = {
    "step": 10,
    "split": "train",
    "step_time": 0.25,
    **{f"{key}/{task}": 1.0 for key in ("loss", "weight", "grad_norm") for task in ("depth", "parts")},
    "cosine/depth/parts": -0.25,
    "lr/encoder": 0.1,
}
BETTER = {"step": 10, "split": "val", "depth/abs": 0.5, "depth/bias": 1.0, "parts/miou": 0.125, "best": True}
END = {"step": 20, "split": "info", "status": "finished", "why": "trainer.max_steps=20", "seconds": 75.0}
RECORDS = [INFO, CONSTANT, UNTRAINED, TRAIN, BETTER, END]


class Page(HTMLParser):
    """Reads tags, headings, text and the rows of tables. It keeps the attributes of every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.raw = page
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        last = self.tags[-1][0] if self.tags else ""
        if last in ("style", "script"):
            return
        self.text += data
        if last == "h2":
            self.headings.append(data.strip())
        if self.rows and self.rows[-1] and last in ("td", "th", "b"):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, name: str) -> list[str]:
        return next(row[1:] for row in self.rows if row and row[0].split()[:1] == [name])


def write(folder: Path, records, config: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder


def report(run: Path, **options) -> Page:
    return Page(write_report(run, **options).read_text())


def test_the_answer_says_which_tasks_beat_the_constant_prediction(tmp_path):
    page = report(write(tmp_path, RECORDS))
    answer = next(part for part in page.raw.split("<p") if 'class="answer"' in part)
    assert "1 of 2 tasks predict better than the best constant prediction; parts does not." in answer
    assert "largest for depth (abs 2 → 0.5 m)" in answer
    better = report(write(tmp_path, [*RECORDS, BETTER | {"step": 20, "parts/miou": 0.5}]))
    assert "All 2 tasks predict better" in better.text
    worse = report(write(tmp_path, [*RECORDS, BETTER | {"step": 20, "depth/abs": 3.0}]))
    assert "No task predicts better" in worse.text


def test_figures_beside_the_constant_the_untrained_and_the_single_task(tmp_path):
    run = write(tmp_path, RECORDS)
    assert report(run).row("abs") == ["0.5", "+75 %", "2", "4"]
    page = report(run, single={"depth/abs": 0.4, "parts/miou": 0.1})
    assert page.row("abs") == ["0.5", "+75 %", "0.4", "2", "4"]
    assert page.row("bias") == ["1", "–", "–", "0.5", "0.75"]
    assert "Trained alone with the same seed, 1 of 2 tasks are at least as good." in page.text


def test_the_page_asks_its_questions_in_order_and_names_the_environment(tmp_path):
    config = "experiment: rooms\nbalancer: {name: nash}\nseed: 7\nmodel: {encoder: resnet18}\n"
    run = write(tmp_path, RECORDS, config)
    page = report(run)
    assert page.headings == QUESTIONS
    for words in (
        *("rooms", "nash", "seed 7", "resnet18", "torch 2.99", "mtlkit train rooms", "a processor", "1 min 15 s"),
        *("abc123, with changes that are not committed", "128 (batches of 32)", "250 ms", "trainer.max_steps=20"),
        "finished at step 20 of 20".capitalize(),
    ):
        assert words in page.text, words
    write_looks(run)
    assert report(run).headings == [QUESTIONS[0], "What does it predict?", *QUESTIONS[1:]]
    links = [one["href"] for one in page.all("a")]
    assert {f"#{one['id']}" for one in page.all("section")} <= set(links)


def test_the_page_needs_no_other_file(tmp_path):
    write_looks(write(tmp_path, RECORDS))
    page = report(tmp_path)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert [attributes for attributes in page.all("script")] == [{}]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/", "#")), (tag, value)


def test_every_picture_and_figure_has_a_text(tmp_path):
    write_looks(write(tmp_path, [*RECORDS, *many_tasks(12, 30)]))
    page = report(tmp_path)
    assert all(image.get("alt") for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) > 5
    assert all(one["role"] == "img" and len(str(one["aria-label"])) > 20 for one in drawings)


def test_text_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>&amp;"
    records = [CONSTANT, {"step": 5, "split": "info", "incident": evil, "versions": {evil: evil}, "command": evil}]
    records += [{"step": 20, "split": "val", f"depth/{evil}": 1.0}, {"step": 20, "split": "train", f"lr/{evil}": 1.0}]
    page = report(write(tmp_path, records, f"experiment: '{evil}'\nseed: '{evil}'\n"))
    assert page.raw.count("<script") == 1
    assert page.text.count("alert(1)") >= 7


@pytest.mark.parametrize(
    "records",
    [
        [],
        [INFO],
        [CONSTANT],
        [UNTRAINED],
        [TRAIN],
        [INFO, CONSTANT, UNTRAINED],
        [{"step": 1, "split": "train"}],
        [{"step": 1, "split": "val"}],
        [{"step": 0, "split": "test", "depth/abs": 1.0}],
        [{key: None if "/" in key else value for key, value in record.items()} for record in RECORDS],
        [TRAIN | {"weight/depth": 0.0, "grad_norm/depth": 0.0}, TRAIN | {"step": 11}],
        [TRAIN | {"step": 11}, TRAIN | {"step": 11}, BETTER, BETTER],
        [TRAIN | {"loss/depth": 0.0, "step_time": 0.0}, TRAIN | {"step": 11, "loss/depth": -1.0}],
        [TRAIN | {"loss/depth": 1e300}, TRAIN | {"step": 11, "loss/depth": 1e-300}],
    ],
)
def test_a_run_with_little_in_it_has_a_page(tmp_path, records):
    page = report(write(tmp_path, records))
    assert page.headings == QUESTIONS
    assert not re.search(r"\b(nan|inf)\b", page.raw.partition("<script")[0].lower())


def many_tasks(count: int, steps: int, null: bool = False):
    random = np.random.default_rng(0)
    tasks = [f"task_with_a_long_name_{i}" for i in range(count)]
    for step in range(1, steps + 1):
        record = {f"{key}/{task}": random.random() for key in ("loss", "weight", "grad_norm") for task in tasks}
        record |= {f"cosine/{a}/{b}": random.uniform(-1, 1) for a, b in combinations(tasks, 2)}
        yield (dict.fromkeys(record) if null else record) | {"step": step, "split": "train"}
        if step % 10 == 0 and not null:
            values = {f"{task}/{metric}": random.random() for task in tasks for metric in ("f1", "accuracy")}
            yield values | {"step": step, "split": "val"}


def test_conflicts_come_with_their_uncertainty(tmp_path):
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.05, (3, 200))
    means = {"a/b": -0.2, "a/c": 0.3, "b/c": 0.0}
    losses = {f"loss/{task}": 1.0 for task in "abc"}
    records = [
        {"step": step, "split": "train", **losses}
        | {f"cosine/{pair}": mean + noise[i, step] for i, (pair, mean) in enumerate(means.items())}
        for step in range(200)
    ]
    page = report(write(tmp_path, records))
    assert re.search(r"1 of 3 pairs of tasks conflict \(a with b: -0\.\d+\), 1 agree \(a with c: \+0\.\d+\)", page.text)
    assert "for 1 the 95 % interval of the mean cosine holds 0" in page.text
    few = report(write(tmp_path, records[:3]))
    assert "3 logged steps with cosines are too few to say which tasks conflict (20 are needed)" in few.text


def test_the_interval_holds_the_mean_of_dependent_values():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(300):  # an autoregressive series with mean 0: a naive interval would hold it in about half the cases
        values = np.zeros(600)
        for i, shock in enumerate(random.normal(size=599), 1):
            values[i] = 0.8 * values[i - 1] + shock
        low, high = interval(values[100:])
        inside += low < 0 < high
    assert inside / 300 > 0.88
    values = random.normal(size=40)
    means = values.reshape(10, 4).mean(axis=1)
    low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(means))
    assert interval(values) == pytest.approx((low, high), abs=ROUNDING)


@pytest.mark.parametrize("null", [False, True])
def test_forty_tasks_are_readable_and_small(tmp_path, null):
    page = report(write(tmp_path, [INFO, *many_tasks(40, 40, null)]))
    assert (tmp_path / "report.html").stat().st_size < 600_000
    assert null or "Mean cosine of all pairs" in page.text


def test_long_series_are_thinned(tmp_path):
    records = [{"step": step, "split": "train", "loss/depth": 1 / step} for step in range(1, 5001)]
    write_report(write(tmp_path, records))
    assert (tmp_path / "report.html").stat().st_size < 60_000


def test_curves_hold_the_values_of_the_log(tmp_path):
    values = [0.5, 0.25, None, 0.125]
    records = [{"step": 10 * i, "split": "train", "loss/depth": value} for i, value in enumerate(values)]
    (line,) = [one for one in report(write(tmp_path, records)).all("path") if one.get("data-n") == "training"]
    assert line["data-x"] == "0 10 30"
    assert line["data-v"] == "0.5 0.25 0.125"
    assert str(line["d"]).count("M") == 2  # a gap, where the value is missing


def test_incidents_are_listed_once_each(tmp_path):
    broken = [TRAIN | {"step": step, "loss/depth": None, "incident": "singular"} for step in (11, 12, 13)]
    page = report(write(tmp_path, broken))
    assert "step 11: singular (and 2 more, the last at step 13)" in page.text
    assert "step 11: loss/depth (train) was not finite (and 2 more, the last at step 13)" in page.text


def test_confusions_and_probabilities(tmp_path):
    write_looks(write(tmp_path, RECORDS))
    page = report(tmp_path)
    assert page.row("wall") == ["6", "83", "17"]
    assert page.row("floor")[:2] == ["10", "20"]
    assert "calibration error 0.450; 2 predictions" in page.text
    two = [Bin(0.0, 0.1, 0.05, 0.15, 3), Bin(0.1, 0.2, 0.15, 0.2, 1), *(Bin(0.2, 0.3, None, None, 0) for _ in range(8))]
    assert calibration_error(Reliability("", two)) == pytest.approx((3 * 0.1 + 1 * 0.05) / 4, abs=ROUNDING)


def test_samples_have_their_legends_losses_and_numbers(tmp_path):
    write_looks(write(tmp_path, RECORDS))
    page = report(tmp_path)
    for words in (
        "4 samples are evenly spread",
        "Sample 1",
        "Best",
        "Worst",
        "rooms/<b>0</b>.png",
        "loss 1.5",
        "0 m",
        "10 m",
    ):
        assert words in page.text, words
    assert page.row("lamp") == ["yes", "0.75"]
    assert page.row("chair") == ["unknown", "not finite"]
    assert "background: #1f77b4" in page.raw


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_small_pictures_are_exact_and_large_ones_reduced(tmp_path):
    save_pictures(write(tmp_path, []), [[("image", picture(600, 800)), ("depth_target", picture(48, 64))]])
    small, large = sorted(report(tmp_path).all("img"), key=lambda one: len(str(one["src"])))
    kept, reduced = (
        Image.open(io.BytesIO(base64.b64decode(str(one["src"]).partition(",")[2]))) for one in (small, large)
    )
    np.testing.assert_array_equal(np.asarray(kept.convert("RGB")), picture(48, 64))
    assert reduced.size == (320, 240)
    assert [small["alt"], large["alt"]] == ["depth ground truth", "image"]


def test_many_large_pictures_stay_under_the_limit(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(240, 320, i)).save(path)
    embed = Embedder(paths)
    assert sum(len(embed(path, "")) for path in paths) < LIMIT + 100 * len(paths)
    assert embed.side < 320


def test_broken_files_are_errors_that_name_them_and_leave_the_old_report(tmp_path):
    run = write(tmp_path, RECORDS, "a: [")
    (run / "report.html").write_text("old")
    with pytest.raises(ValueError, match=r"config\.yaml is not valid YAML"):
        write_report(run)
    run = write(tmp_path, [{"loss": 1}], "a: 1")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1"):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


#: Points at a curve, moves by a key, and smooths.
TRY = """<script>
addEventListener("load", () => {
  const say = (name, value) => console.log(`PROBE ${name}=${value};`)
  const svg = document.querySelector("svg[data-plot]"), box = svg.getBoundingClientRect()
  const output = svg.parentElement.querySelector("output")
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 5, clientY: box.top + 20}))
  say("pointer", output.textContent)
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}))
  say("key", output.textContent)
  const path = document.querySelector("path.noisy"), before = path.getAttribute("d")
  const slider = document.getElementById("smoothing")
  const put = value => { slider.value = value; slider.dispatchEvent(new Event("input")) }
  put(0.9)
  say("smoothed", path.getAttribute("d") !== before)
  put(0)
  const points = text => [...text.matchAll(/[\\d.]+/g)].map(Number)
  say("back", points(path.getAttribute("d")).every((one, i) => Math.abs(one - points(before)[i]) < 0.06))
})
</script>"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run with twelve tasks, pictures, tables and incidents."""
    run = write(
        tmp_path_factory.mktemp("run"), [*RECORDS, *many_tasks(12, 30), TRAIN | {"step": 40, "incident": "Odd."}]
    )
    write_looks(run)
    return write_report(run).read_text()


@needs_chromium
def test_in_a_browser_at_390_px_in_the_dark_and_on_paper(large, tmp_path):
    found = on_a_phone(large, tmp_path)
    assert found["width"] == "390 of 390"
    assert found["reach"] == "true"
    assert found["cut"] == ""
    ink, paper = found["colours"].split(" on ")
    assert luminance(paper) < luminance(ink)
    assert contrast(ink, paper) > 7
    page = tmp_path / "probe.html"
    browse(page, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@needs_chromium
def test_values_under_pointer_and_keys_and_smoothing(tmp_path):
    records = [TRAIN | {"step": step, "cosine/depth/parts": step / 100} for step in range(1, 41)]
    page = write_report(write(tmp_path, [INFO, *records])).read_text()
    path = tmp_path / "try.html"
    path.write_text(page.replace("</body>", f"{TRY}{PROBE}</body>"))
    found = browse(path)
    assert found["pointer"] == "step 40: depth · parts 0.4"
    assert found["key"] == "step 39: depth · parts 0.39"
    assert found["smoothed"] == "true"
    assert found["back"] == "true"


def test_colours_of_text_have_enough_contrast():
    """WCAG AA asks for 4.5 between text and page."""
    from mtlkit.page.style import BASE

    light = dict(re.findall(r"--(ink|soft|good|bad|c\d): (#\w{6})", BASE.partition("@media")[0]))
    dark = dict(re.findall(r"--(ink|soft|good|bad|c\d): (#\w{6})", BASE.partition("@media")[2].partition("\n.c0")[0]))
    assert len(light) == len(dark) == 12
    for colours, paper in ((light, "#ffffff"), (dark, "#15181e")):
        for name, colour in colours.items():
            least = 3 if name.startswith("c") else 4.5  # lines and marks need 3
            assert contrast(rgb(colour), rgb(paper)) >= least, (name, colour)


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_numbers_of_long_names_stay_in_their_column(tmp_path):
    """Of a task with classes, the likely ones are shown; of one with attributes, all."""
    write_looks(write(tmp_path, RECORDS))
    path = tmp_path / "pictures" / "samples.json"
    found = json.loads(path.read_text())
    names = [f"class {i}" for i in range(8)]
    digits = {"names": names, "target": [0.0, 1.0, *[0.0] * 6], "prediction": [0.1, 0.2, 0.5, 0.2, *[0.0] * 4]}
    attributes = digits | {"prediction": [0.5] * 8}
    for sample in found["samples"]:
        sample["numbers"] = {"digit": digits}
    path.write_text(json.dumps(found))
    page = report(tmp_path)
    assert "5 more" in page.text
    shown = [row[:2] for row in page.rows if row and row[0].startswith("class ")][:3]
    assert [row[0] for row in shown] == ["class 1", "class 2", "class 3"]
    for sample in found["samples"]:
        sample["numbers"] = {"attributes": attributes}
    path.write_text(json.dumps(found))
    assert "class 7" in report(tmp_path).text
