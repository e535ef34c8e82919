"""The page docs/tutorials/your_own_data.md: a test makes its folder, shows it, and trains with its YAML to a report."""

import importlib.util
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from pages import commands_of, files_of, page_of
from PIL import Image

from mtlkit.cli.main import main
from mtlkit.config.composition import read_config
from mtlkit.log import read_log

PAGE = page_of("docs/tutorials/your_own_data.md")
FILES, COMMANDS = files_of(PAGE), commands_of(PAGE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files and its rooms."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make_rooms.py", run_name="__main__")
    return tmp_path


def test_from_a_folder_to_a_report(page: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(FILES["rooms.yaml"].splitlines()) <= 11  # `data:` and ten lines
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("mtlkit", 0), capsys.readouterr().err
    out = capsys.readouterr().out
    assert "depth: 40 of 40 images have a file depth/*.png." in out
    assert "depth in m: train median 2.5" in out
    report = (page / "runs" / "rooms" / "report.html").read_text(encoding="utf-8")
    for words in ("depth/*.png", "chair", "8 are held out for validation"):
        assert words in report
    first, *_, last = (record for record in read_log(page / "runs/rooms/metrics.jsonl") if record["split"] == "val")
    assert last["step"] == 2 * (22 // 4)
    assert last["loss/things"] < first["loss/things"]


def test_the_pages_table(page: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "table.yaml", "output_dir=runs/table"]) == 0, capsys.readouterr().err
    # Every fifth of the 40 rows says whether it is bright. Of these eight, two are among the eight held-out ones.
    assert "room: multilabel, 59.4 % valid" in capsys.readouterr().out
    assert read_config(page / "runs/table/config.yaml").data.options["splits"].block == 5


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the package datasets is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:datasets.*", "ignore::DeprecationWarning:multiprocess.*")
def test_the_pages_data_set_of_hugging_face(page: Path, capsys: pytest.CaptureFixture) -> None:
    import datasets

    def rows(numbers: range) -> dict[str, list]:
        photos = [Image.open(f"rooms/images/{n:03}.jpg").convert("RGB") for n in numbers]
        distances = [np.asarray(Image.open(f"rooms/depth/{n:03}.png")).astype(np.int32).tolist() for n in numbers]
        return {"photo": photos, "distance": distances, "kind": [n % 3 for n in numbers]}

    features = datasets.Features(
        photo=datasets.Image(),
        distance=datasets.Sequence(datasets.Sequence(datasets.Value("int32"))),
        kind=datasets.ClassLabel(names=["kitchen", "hall", "cellar"]),
    )
    parts = {"train": range(8), "validation": range(8, 12)}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows(numbers), features) for name, numbers in parts.items()}
    ).save_to_disk("rooms_hf")
    assert main(["train", "hf.yaml", "output_dir=runs/hf"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "room: classification, 100 % valid; kitchen 37.5 %, hall 37.5 %, cellar 25 %" in out
    assert "depth in m: train median 2.5" in out
