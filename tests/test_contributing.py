"""The examples of CONTRIBUTING.md: tests write their files, run their commands and compare their numbers."""

import doctest
import importlib
import inspect
import math
import runpy
import shlex
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pages import commands_of, files_of, page_of
from tolerances import ROUNDING, SINGLE
from torch import Tensor

import mtlkit
from mtlkit.cli.main import main
from mtlkit.data.dataset import DATASETS
from mtlkit.log import read_log
from mtlkit.step import Step

PAGE = page_of("CONTRIBUTING.md")
FILES, COMMANDS = files_of(PAGE), commands_of(PAGE)
MODULES = {Path(name).stem for name in FILES if name.endswith(".py")}


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(command: str) -> None:
    """Runs a line of the page in this process."""
    match shlex.split(command, comments=True):
        case ["mtlkit", *words]:
            assert main(words) == 0, command
        case ["python", "-m", "doctest", file]:
            found = doctest.testmod(load(file.removesuffix(".py")))
            assert (found.failed, found.attempted > 0) == (0, True), command
        case ["python", "-c", code]:
            exec(code, {})
        case ["python", file]:
            runpy.run_path(file, run_name="__main__")
        case _:
            raise AssertionError(f"the test does not know how to run {command!r}")


def test_the_pages_commands_run(walk: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(COMMANDS) == sum(PAGE.count(f"\n{program} ") for program in ("mtlkit", "python")) >= 8
    assert sum("check_balancer" in command for command in COMMANDS) == 1
    for command in COMMANDS:
        run(command)
    out = capsys.readouterr().out
    assert "train: 8 samples of 64 x 48" in out
    assert "weather: classification, 87.5 % valid" in out  # seven of eight photos
    for name, metric in (("photos", "cars/mse"), ("count", "cars/mae")):
        (*_, last) = (record for record in read_log(walk / "runs" / name / "metrics.jsonl") if record["split"] == "val")
        assert (last["step"], math.isfinite(last[metric])) == (2, True)


def test_what_the_walks_register_is_listed(walk: Path, capsys: pytest.CaptureFixture) -> None:
    for module in MODULES - {"make_photos"}:
        load(module)
    for kind in ("balancers", "tasks", "datasets"):
        assert main(["list", kind]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed >= MODULES - {"make_photos"}  # each is registered under the name of its file


# ---- the balancer


def test_the_balancer(walk: Path) -> None:
    cls = load("averaged_mgda").AveragedMGDA
    code = inspect.getsource(cls).replace(cls.__doc__, "").splitlines()
    assert sum(bool(line.strip()) for line in code) <= 20  # a balancer is short
    method = mtlkit.BALANCERS.build("averaged_mgda", tasks=("a", "b"), rate=0.25)
    grams = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[5.0, 0.0], [0.0, 3.0]]], dtype=torch.float64)
    # For orthogonal gradients, w_k is proportional to 1 / A_kk. A is diag(1, 3), then diag(0.75 + 1.25, 3).
    for number, expected in enumerate(([3 / 4, 1 / 4], [3 / 5, 2 / 5])):
        step = Step(method, number=number)
        step.tasks, step.gradients = ("a", "b"), SimpleNamespace(gram=lambda number=number: grams[number])
        assert method.combine(step).tolist() == pytest.approx(expected, rel=ROUNDING)
        method.average.settle(step.noted(method.average))
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"balancer\.rate must be a number in \(0, 1\], got"):
            mtlkit.BALANCERS.build("averaged_mgda", tasks=("a",), rate=rate)


# ---- the data set


def photos(**options) -> mtlkit.Dataset:
    return DATASETS.build("photos", **{"root": "pictures", **options})


@pytest.fixture
def pictures(walk: Path) -> Path:
    load("photos")
    run("python make_photos.py")
    return walk / "pictures"


def test_the_data_sets_samples(pictures: Path) -> None:
    train = photos()
    assert (len(train), len(photos(split="val")), len(photos(limit=3))) == (8, 4, 3)
    assert "weather" not in train[0]["targets"]  # its cell in the table is empty
    image, targets = train[7].values()
    assert (image.shape, image.dtype, image.max().item()) == ((3, 48, 64), torch.float32, pytest.approx(250 / 255))
    assert (targets["weather"].item(), targets["cars"].tolist()) == (1, [3.0])  # rain, because 7 % 3 = 1
    assert photos(size=(32, 16))[0]["image"].shape == (3, 16, 32)
    assert train.label(7) == str(Path("pictures", "7.png"))


def test_the_data_set_says_what_is_wrong(pictures: Path) -> None:
    with pytest.raises(ValueError, match="has no photo of the split 'test'"):
        photos(split="test")
    with pytest.raises(FileNotFoundError, match=r"no list nowhere.labels\.csv\. data\.root must be the folder"):
        photos(root="nowhere")
    (pictures / "3.png").unlink()
    assert "1 photos of pictures are missing, the first 3.png." in photos().missing
    assert not photos(limit=3).missing
    table = (pictures / "labels.csv").read_text()
    (pictures / "labels.csv").write_text(table.replace("file,split", "name,split"))
    with pytest.raises(ValueError, match=r"must have the columns \['file', .*, found \['name', "):
        photos()


# ---- the task


def counts(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers)[:, None]


def test_the_tasks_loss(walk: Path) -> None:
    load("count")
    task = mtlkit.TASKS.build("count", "cars", ("cars",), decoder="linear")
    output = counts([0.0, math.log(2), math.log(3), 5.0]).requires_grad_()
    total, number = task.loss(output, counts([0, 4, 3, math.nan]))
    # m = 1 for y = 0: 1; m = 2 for y = 4: 2 - 4 + 4 log 2; m = y: 0; the last one is unknown
    assert total.item() == pytest.approx(1 + 2 - 4 + 4 * math.log(2), rel=SINGLE)
    assert number.item() == 3
    total.backward()
    assert output.grad.flatten().tolist() == pytest.approx([1, 2 - 4, 0, 0], abs=SINGLE)  # by log m: m - y
    total, number = task.loss(output, counts([math.nan] * 4))
    assert (total.item(), number.item(), total.requires_grad) == (0, 0, True)
    with pytest.raises(ValueError, match=r"task 'cars' needs numbers of at least 0 \(NaN: unknown\), found -2"):
        task.loss(output, counts([0, -2, -1, 0]))


def test_the_tasks_figures(walk: Path) -> None:
    load("count")
    task = mtlkit.TASKS.build("count", "cars", ("cars",), decoder="linear")
    metrics = task.metrics()
    metrics.update(task.predict(counts([0.0, math.log(2)])), counts([1, 4]))  # 1 for 1, and 2 for 4
    metrics.update(task.predict(counts([math.log(3.4), 7.0])), counts([3, math.nan]))  # 3.4 for 3
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx({"mae": (0 + 2 + 0.4) / 3, "exact": 2 / 3}, rel=SINGLE)
    constant = task.constant(counts([1, 4, math.nan]))
    assert constant.tolist() == [[2.5]]
    metrics.reset()
    metrics.update(constant, counts([1, 4, math.nan]))  # one prediction for a whole batch
    assert metrics.compute()["mae"].item() == 1.5
    with pytest.raises(ValueError, match="no known number"):
        task.constant(counts([math.nan]))


def test_the_tasks_picture(walk: Path) -> None:
    load("count")
    task = mtlkit.TASKS.build("count", "cars", ("cars", "people"), decoder="linear")
    picture = task.picture(torch.tensor([5.0, math.nan]))
    cars, people = picture[:11], picture[12:23]
    assert ((cars != 255).any(axis=2).mean(), (people == 150).all()) == (5 / 20, True)
    full = task.picture(torch.tensor([50.0, 0.0]))
    assert ((full[:11] != 255).any(axis=2).all(), (full[12:] == 255).all()) == (True, True)
