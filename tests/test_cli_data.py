"""The commands for data show what they find and write the fast format. The same words can then train on it."""

import json
from pathlib import Path

import pytest
import torch
from layouts import celeba, mnist, nyuv2

from mtlkit.cli.main import main
from mtlkit.data.dataset import DATASETS, Dataset, Target
from mtlkit.datasets import scenes
from mtlkit.waits import TIMES


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    mnist.write(tmp_path / "digits" / "MNIST" / "raw", train=60, test=12)
    return tmp_path / "digits"


def test_show_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    celeba.original(tmp_path)
    assert main(["data", "show", "celeba", f"data.root={tmp_path}", "--samples", "0"]) == 0
    out = capsys.readouterr().out
    assert "\ntrain: 6 samples of 64 x 64\n" in out
    assert "\nval: 3 samples of 64 x 64\n" in out
    assert "  gender: multilabel, 100 % valid; Male " in out
    assert out.count(f"CelebA's partition is {tmp_path}/Eval/list_eval_partition.txt.") == 1
    assert out.count("Terms of use: CelebA is for non-commercial research only") == 1


def test_show_goes_on_after_a_split_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    nyuv2.mtan(tmp_path)
    assert (
        main(["data", "show", "nyuv2", f"data.root={tmp_path}", "data.holdout=0", "data.size=null", "--samples", "3"])
        == 2
    )
    out, error = capsys.readouterr()
    assert "\ntrain: 12 samples of 64 x 48; shares are those in 3 of them\n" in out
    assert "\ntest: 11 samples" in out
    assert "The arrays of MTAN and LibMTL; their folder val holds the official test frames: split test." in out
    assert "mtlkit: val: The split 'val' is empty with data.holdout=0" in error


def test_where_test_data_selects_there_need_be_no_validation_data(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    nyuv2.mtan(tmp_path / "mtan")
    fast = tmp_path / "fast"
    words = ["nyuv2_mtan", f"data.root={tmp_path / 'mtan'}"]
    assert main(["data", "show", *words, "--samples", "3"]) == 0
    out, error = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines() if "samples of 64 x 48" in line] == ["train", "test"]
    assert "val" not in error
    assert main(["data", "prepare", *words, "--out", str(fast)]) == 0
    assert list(json.loads((fast / "manifest.json").read_text())["splits"]) == ["train", "test"]
    capsys.readouterr()
    assert main(["data", "show", "nyuv2_mtan", f"data.root={fast}", "--samples", "3"]) == 0
    assert "\ntest: 11 samples of 64 x 48" in capsys.readouterr().out
    assert main(["data", "prepare", *words, "--splits", "val", "--out", str(tmp_path / "val")]) == 2
    assert "'val' is empty with data.holdout=0" in capsys.readouterr().err


PLUGIN = """
import torch
from mtlkit.data.dataset import DATASETS, Dataset, Target

@DATASETS.register("partial")
class Partial(Dataset):
    \"\"\"Four pictures, and no test data.\"\"\"

    def __init__(self, root=None, split="train", size=None, limit=None, way="empty"):
        self.targets = {"flags": Target("multilabel", ("p",))}
        self.length = 0 if split == "test" else 4
        if split == "test" and way != "empty":
            raise {"value": ValueError, "file": FileNotFoundError, "lookup": LookupError}[way]("There is no test.csv.")

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"image": torch.zeros(3, 8, 8), "targets": {"flags": torch.ones(1)}}
"""
EXPERIMENT = """
plugins: [partial_plugin]
data: {name: partial, batch_size: 2}
model: {encoder: test_resnet}
task: {flags: {type: multilabel, decoder: linear}}
trainer: {max_steps: 1}
"""


@pytest.fixture
def _partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the experiment `partial.yaml`, whose data set has no test data, into the current folder."""
    (tmp_path / "partial_plugin.py").write_text(PLUGIN)
    (tmp_path / "partial.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_partial")
@pytest.mark.filterwarnings("ignore:protocol=published, but preset=null")  # a user's own experiment
@pytest.mark.parametrize("way", ["empty", "value", "file", "lookup"])
def test_show_says_that_there_is_no_test_data(way: str, capsys: pytest.CaptureFixture) -> None:
    words = ["data", "show", "partial.yaml", f"data.way={way}"]
    assert main(words) == 0
    out, error = capsys.readouterr()
    reason = "The data set has no samples." if way == "empty" else "There is no test.csv."
    assert f"\ntest: no test data. {reason}\n" in f"\n{out}"
    assert "\ntrain: 4 samples of 8 x 8" in out
    assert "\nval: 4 samples of 8 x 8" in out
    assert error == ""
    selecting = ["data.validation=test", "protocol=published"]  # the run now needs them
    assert main([*words, *selecting]) == 2
    assert f"mtlkit: test: {reason}" in capsys.readouterr().err


@pytest.mark.usefixtures("_partial")
@pytest.mark.filterwarnings("ignore:protocol=published, but preset=null")  # a user's own experiment
@pytest.mark.parametrize("way", ["empty", "file"])
def test_prepare_writes_the_splits_that_there_are(way: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["data", "prepare", "partial.yaml", f"data.way={way}", "--out", "fast"]
    assert main([*words, "data.validation=test", "protocol=published"]) == 2
    assert "Nothing is prepared. To prepare the others alone: --splits train." in capsys.readouterr().err
    assert not (tmp_path / "fast").exists()
    for _ in range(2):  # the second time, it checks what is there
        assert main(words) == 0
        out, error = capsys.readouterr()
        assert out.startswith("test: no test data. The")
        assert "fast is complete: 4 train, 4 val samples" in error
    assert main(["train", "partial.yaml", "data.root=fast", f"data.way={way}", "output_dir=run"]) == 0


@pytest.mark.usefixtures("no_report")
def test_missing_pictures_are_left_out_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    celeba.original(tmp_path)
    folder = tmp_path / "Img" / "img_align_celeba"
    names = [name for name, split in zip(celeba.NAMES, celeba.SPLITS, strict=True) if split == 0]
    (folder / names[2]).unlink()  # the third of six training pictures
    words = ["celeba", f"data.root={tmp_path}"]
    assert main(["data", "show", *words]) == 2
    out, error = capsys.readouterr()
    assert f"mtlkit: train: 1 of the 6 pictures that the lists name are not in {folder}, the first of them" in error
    assert "To go on without these samples: data.on_error=skip." in error
    assert "\nval: 3 samples" in out  # the other splits are still shown
    assert main(["data", "show", *words, "data.on_error=skip"]) == 0
    out = capsys.readouterr().out
    assert f"  1 of the 6 pictures that the lists name are not in {folder}" in out
    assert f"could not be read and were left out, for example {folder / names[2]} is missing." in out
    small = ["data.batch_size=2", "trainer.max_epochs=null", "trainer.max_steps=3", "trainer.log_every=3"]
    run = tmp_path / "run"
    assert main(["train", *words, *small, f"output_dir={run}"]) == 2
    assert "data.on_error=skip" in capsys.readouterr().err
    assert main(["train", *words, *small, "data.on_error=skip", f"output_dir={run}"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    left_out = [record for record in lines if record["split"] == "train" and "left_out" in record]
    assert [record["left_out"] for record in left_out] == [1]  # three steps of two samples use it once
    assert left_out[0]["incident"] == f"1 sample left out: {folder / names[2]} is missing."
    assert main(["train", *words, *small, "data.train_size=2", f"output_dir={tmp_path / 'few'}"]) == 0


def test_show_leaves_out_what_training_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    celeba.original(tmp_path)
    words = ["data", "show", "celeba", f"data.root={tmp_path}", "--samples", "0"]
    damaged = tmp_path / "Img" / "img_align_celeba" / celeba.NAMES[1]
    damaged.write_bytes(b"")
    assert main(words) == 2
    assert f"{damaged} is damaged" in capsys.readouterr().err
    assert main([*words, "data.on_error=skip"]) == 0
    out = capsys.readouterr().out
    assert f"  1 of these samples could not be read and were left out, for example {damaged} is damaged" in out
    assert out.count("could not be read") == 1  # in one split only
    assert "  gender: multilabel, 100 % valid" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "multimnist"], "data.root is not set"),
        (["show", "multimnist", "data.root=absent"], "MNIST's file train-images-idx3-ubyte"),
        (["show", "multimnist", "--samples", "-1"], "--samples must not be negative"),
        (["show", "multimnits"], "No experiment is called 'multimnits'. Did you mean 'multimnist'"),
        (["prepare", "multimnist", "data.root=absent", "--out", "x"], "MNIST's file"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_sets_are_prepared_each_on_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(
        "data: {concat: [{name: multimnist}], batch_size: 2}\nmodel: {encoder: lenet}\n"
        "task: {left: {type: classification}}\ntrainer: {max_steps: 1}\n"
    )
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "prepare each one alone" in capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_training_on_the_prepared_data_is_training_on_the_source(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fast = tmp_path / "fast"
    words = ["multimnist", f"data.root={digits}", "data.dataset_seed=3"]
    assert main(["data", "prepare", *words, "--out", str(fast)]) == 0
    out, error = capsys.readouterr()
    assert out == f"Train on it with data.root={fast}\n"
    assert "50 train, 10 val, 12 test samples" in error
    logs = []
    for name, root in (("source", digits), ("fast", fast)):
        run = tmp_path / name
        options = ["data.dataset_seed=3", "data.batch_size=8", "trainer.max_steps=3", "trainer.log_every=1"]
        assert main(["train", "multimnist", f"data.root={root}", *options, f"output_dir={run}"]) == 0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in r.items() if k not in TIMES} for r in lines if r["split"] != "info"])
    assert logs[0] == logs[1]
    out = capsys.readouterr().out
    assert "Prepared from multimnist on " in out
    assert out.count("Terms of use: ") == 2  # printed twice, because the two runs read different data
    assert main(["train", "multimnist", f"data.root={fast}", f"output_dir={tmp_path / 'other'}"]) == 2
    assert "prepared with other settings: dataset_seed is 3 there and 0 now" in capsys.readouterr().err
    assert main(["data", "prepare", *words, "--out", str(fast)]) == 0
    assert "is complete" in capsys.readouterr().err


def test_what_a_run_finds_is_told_and_kept(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["multimnist", f"data.root={digits}", "data.batch_size=8", "trainer.max_steps=1"]
    for name in ("a", "b"):
        assert main(["train", *words, f"output_dir={tmp_path / name}"]) == 0
    out = capsys.readouterr().out
    assert out.count("50 train and 10 val samples of 28 x 28") == 1  # printed once, not once per run
    for name in ("a", "b"):
        assert "50 train and 10 val samples of 28 x 28" in (tmp_path / name / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:protocol=published, but preset=null")
def test_selecting_on_test_data_must_be_asked_for_and_is_said(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["train", "multimnist", f"data.root={digits}", "data.batch_size=8", "trainer.max_steps=1"]
    words += [f"output_dir={tmp_path / 'run'}", "data.validation=test"]
    assert main(words) == 2
    assert "data.validation: selecting on test data makes every figure on it too good" in capsys.readouterr().err
    assert main([*words, "protocol=published"]) == 0
    said = "On the test split, which also selected the model or was watched (protocol: published)."
    assert said in " ".join(capsys.readouterr().out.split())
    report = (tmp_path / "run" / "report.html").read_text()
    assert said in report
    info = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert (info["protocol"], info["validation"], info["selection"]) == ("published", "test", "best")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    on_run, on_test = capsys.readouterr().out, main(["evaluate", str(tmp_path / "run"), "--split", "test"])
    assert on_test == 0
    assert on_run == capsys.readouterr().out


def test_a_root_that_is_not_read_is_not_ignored_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(scenes.SPLITS, "test", 2)  # `data show` renders the whole split
    words = ["scenes", f"data.root={tmp_path}", "data.train_size=2", "data.val_size=2", "data.size=[16,16]"]
    main(["data", "show", *words])
    assert (
        f"scenes reads no files: data.root is where its rendered frames are kept, {tmp_path}."
        in capsys.readouterr().out
    )


def test_a_data_set_without_files_refuses_a_root(capsys: pytest.CaptureFixture):
    class Rootless(Dataset):
        """Has no files."""

        def __init__(self, split="train", size=None, limit=None):
            self.targets = {"left": Target("classification", ("a", "b"))}

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"image": torch.zeros(3, 8, 8), "targets": {"left": torch.tensor(0)}}

    DATASETS.register("rootless")(Rootless)
    words = ["data", "show", "multimnist", "data=rootless", "data.size=null"]
    assert main(words) == 0
    assert main([*words, "data.root=/x"]) == 2
    error = capsys.readouterr().err
    assert error == "mtlkit: data.root=/x: the data set 'rootless' reads no files, so it has no root.\n"
