"""Predictions and evaluations of a finished run, as people ask for them on the command line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tolerances import SINGLE
from torch.nn import functional as F

from mtlkit import Experiment, log
from mtlkit.cli.main import main
from mtlkit.engine import predictor
from mtlkit.run import inference, predicting

CLASSES = 13  # of the scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with one task of each form. Its data lie in the folder `cache` beside it."""
    folder = tmp_path_factory.mktemp("predicting")
    words = ["data.size=[32,24]", "data.train_size=8", "data.val_size=6", "data.batch_size=4", "trainer.max_steps=2"]
    words += ["model.encoder=test_resnet", "model.levels=null", "trainer.max_epochs=null", "trainer.log_every=1"]
    words += [f"data.root={folder / 'cache'}", f"output_dir={folder / 'run'}"]
    return Experiment.compose("scenes", words).run()


def picture(path: Path, width: int = 20, height: int = 10, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_folder_is_searched_and_names_stay(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, name in enumerate(["2.png", "10.JPG", "day/2.png", "day/deep/3.webp", ".hidden/4.png", ".5.png"]):
        picture(tmp_path / "frames" / name, seed=seed)
    (tmp_path / "frames" / "notes.txt").write_text("no picture")
    out = tmp_path / "frames" / "out"  # the second call must not take the pictures of the first for images
    for tasks, folder in (("depth", out / "a"), ("depth,attributes", out / "b")):
        words = ["predict", str(run), str(tmp_path / "frames"), "--out", str(folder), "--tasks", tasks, "--no-arrays"]
        assert main(words if folder.name == "a" else [*words[:4], str(out), *words[5:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["2", "10", "day/2", "day/deep/3"]
    assert lines == [str(out / "a" / name) for name in names] + [str(out / name) for name in names]
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {f"a/{name}/depth.png" for name in names} | {
        f"{name}/{task}.png" for name in names for task in ("depth", "attributes")
    }


def test_a_batch_gives_what_single_images_give(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only images of one size go together, whatever their order."""
    seen, original = [], predictor.Predictor.predictions
    monkeypatch.setattr(
        predictor.Predictor,
        "predictions",
        lambda self, image, sizes: seen.append((len(image), *sizes["depth"])) or original(self, image, sizes),
    )
    sizes = [(20, 10), (9, 9), (20, 10), (20, 10), (9, 9)]
    images = [picture(tmp_path / f"{i}.png", *size, seed=i) for i, size in enumerate(sizes)]
    single = predicting.predict_files(run, images, tmp_path / "single")
    assert seen == [(1, 10, 20)] * 3 + [(1, 9, 9)] * 2
    seen.clear()
    together = predicting.predict_files(run, images, tmp_path / "together", batch=2)
    assert seen == [(2, 10, 20), (1, 10, 20), (2, 9, 9)]
    for one, other in zip(single, together, strict=True):
        for task in ("depth", "normals", "attributes"):
            np.testing.assert_allclose(np.load(one / f"{task}.npy"), np.load(other / f"{task}.npy"), atol=SINGLE)


def test_arrays_have_the_smallest_type_that_loses_nothing(run: Path, tmp_path: Path) -> None:
    (folder,) = predicting.predict_files(run, [picture(tmp_path / "one.png", 1, 1)], tmp_path / "out")
    arrays = {task: np.load(folder / f"{task}.npy") for task in ("segmentation", "depth", "normals", "attributes")}
    assert {task: (array.dtype.name, array.shape) for task, array in arrays.items()} == {
        "segmentation": ("uint8", (1, 1)),
        "depth": ("float32", (1, 1, 1)),
        "normals": ("float32", (3, 1, 1)),
        "attributes": ("float32", (12,)),
    }
    for classes, expected in ((256, "uint8"), (257, "uint16")):
        assert predicting.smallest(np.array([0, classes - 1]), classes).dtype == expected
    for values, classes in ((np.array([-1, 3]), 5), (np.array([5]), 5), (np.array([3]), 0)):
        assert predicting.smallest(values, classes) is values


def test_what_cannot_be_predicted_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.png"), picture(tmp_path / "b" / "1.jpg")
    (tmp_path / "empty").mkdir()

    def refused(error: type[Exception], match: str, *images: Path, **options: object) -> None:
        with pytest.raises(error, match=match):
            predicting.predict_files(run, images, tmp_path / "out", **options)

    refused(ValueError, rf"{a} and {b} would both be written to {tmp_path / 'out' / '1'}", a.parent, b.parent)
    inside = picture(tmp_path / "c" / "1" / "depth.png")
    refused(ValueError, rf"{inside} would be written to .*, inside the folder of {a}", a, inside.parents[1])
    refused(FileNotFoundError, r"empty holds no image: no file that ends in \.avif, .*\.webp", tmp_path / "empty")
    refused(LookupError, "has no task 'dept'. Did you mean 'depth'", a, tasks=["dept"])
    refused(ValueError, "at least 1, got 0", a, batch=0)
    refused(ValueError, "no image to predict for")
    assert not (tmp_path / "out").exists()
    both = predicting.predict_files(run, [tmp_path], tmp_path / "out", tasks=["depth"])
    assert [folder.relative_to(tmp_path / "out") for folder in both] == [Path("a/1"), Path("b/1"), Path("c/1/depth")]


def test_a_large_map_in_strips_is_that_of_the_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(tmp_path / "photo.png", 90, 70)
    (whole,) = predicting.predict_files(run, [image], tmp_path / "whole")
    monkeypatch.setattr(predictor, "STRIP", 3_000)  # 3 of the 70 rows at a time for 13 classes, 11 for normals
    (strips,) = predicting.predict_files(run, [image], tmp_path / "strips")
    for task in ("depth", "normals", "attributes"):
        np.testing.assert_allclose(np.load(strips / f"{task}.npy"), np.load(whole / f"{task}.npy"), atol=SINGLE)
    labels = [np.load(folder / "segmentation.npy") for folder in (strips, whole)]
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize("size", [(70, 90), (5, 4), (1, 1), (7, 3), (8, 200)])
def test_rows_of_a_resized_output_are_those_of_torch(size: tuple[int, int]) -> None:
    output = torch.rand(2, 3, 5, 4)
    whole = F.interpolate(output, size, mode="bilinear", align_corners=False)
    for first in range(size[0]):
        rows = predictor.resized_rows(output, size, first, min(first + 3, size[0]))
        torch.testing.assert_close(rows, whole[..., first : first + 3, :], rtol=0, atol=SINGLE)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process needed")
def test_a_photo_of_12_megapixels_needs_less_than_a_gigabyte(run: Path, tmp_path: Path) -> None:
    """Whole outputs would need 13 x 48 MB for the classes alone, and pictures in float64 as much again."""
    y, x = np.mgrid[:3000, :4000]
    pixels = np.stack([x // 16, y // 12, (x + y) // 28], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    Image.fromarray(pixels[::100, ::100]).save(tmp_path / "small.png")
    # The peak that `getrusage` gives may be that of the process which started this one. VmHWM is that of this program.
    code = (
        "import sys; from pathlib import Path; from mtlkit.run.predicting import predict_files\n"
        "run, folder = map(Path, sys.argv[1:])\n"
        "tasks = ['segmentation', 'depth', 'normals']\n"
        "def peak(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "predict_files(run, [folder / 'small.png'], folder / 'out', tasks=tasks)\n"
        "start = peak()\n"
        "predict_files(run, [folder / 'large.jpg'], folder / 'out', tasks=tasks)\n"
        "print(1024 * (peak() - start))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, run, tmp_path], capture_output=True, text=True, check=True)
    assert 2e8 < int(done.stdout) < 1e9  # three predictions have 288 MB
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "large").glob("*.npy")) < 2.1e8


@pytest.mark.filterwarnings("default::UserWarning")
def test_evaluate_takes_the_keys_that_may_change(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copied = tmp_path / "My Runs (1)" / "lr=0.1"
    shutil.copytree(run, copied)
    words = ["evaluate", str(copied), f"data.root={tmp_path / 'other place (2)'}", "data.workers=0", "--classes"]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    figures = json.loads(captured.out)
    assert figures == inference.evaluate_run(run, classes=True)
    assert (tmp_path / "other place (2)").is_dir()  # the scenes are drawn there, and not read from the old place
    assert main([*words, "trainer.max_steps=5"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "mtlkit: warning: trainer.max_steps has no effect on an evaluation.\n"
    assert re.search(rf"\nwall +{figures['segmentation/iou/wall']:.6g} ", captured.out)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.lr=1", r"trainer\.lr: .* has 0\.\d+, not 1\.0\. An evaluation may change .*data\.root, .*data\.wor"),
        ("data.roto=/x", r"data\.roto: .*Did you mean 'root'"),
        ("~task.depth", r"task\.depth\.\w+: .* An evaluation may change"),
        ("other", "Cannot read the override 'other', expected key=value"),
    ],
)
def test_evaluate_refuses_other_keys(run: Path, word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inference.evaluate_run(run, words=[word])


def test_figures_of_single_classes(run: Path) -> None:
    """They are in the log at every evaluation and in the report. They are no metrics for tables and delta-m."""
    records = log.read_log(run / "metrics.jsonl")
    for record in (record for record in records if record["split"] == "val"):
        iou = [value for key, value in record.items() if key.startswith("segmentation/iou/")]
        assert len(iou) == CLASSES
        assert np.mean([value for value in iou if value is not None]) == pytest.approx(record["segmentation/miou"])
        f1 = [record[key] for key in record if key.startswith("attributes/f1/") and record[key] is not None]
        assert np.mean(f1) == pytest.approx(record["attributes/f1"])
    assert not any(log.class_key(key) for r in records if r["split"] in ("val_constant", "info") for key in r)
    assert not any(log.class_key(key) for key in inference.evaluate_run(run))
    page = (run / "report.html").read_text()
    best = [one for one in records if one.get("best")][-1]
    classes = page.partition("<h3>Single classes</h3>")[2].partition("<h3>")[0]
    assert re.search(rf'<th scope=row>wall<td class="?n[^>]*>{best["segmentation/iou/wall"]:.3f}', classes)
    assert "iou/wall" not in page


def test_predictions_of_a_task_that_gives_no_map_stay_whole() -> None:
    """A task with maps as outputs may predict something else, such as the place of the largest value."""

    class Place:
        @staticmethod
        def predict(output: torch.Tensor) -> torch.Tensor:
            return output.flatten(2).argmax(2)

    output = torch.zeros(1, 2, 5, 5)
    output[0, 0, 4, 4] = output[0, 1, 0, 0] = 1
    assert predictor._in_strips(Place, output, (5, 5)).tolist() == [[24, 0]]
