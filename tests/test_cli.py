import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import mtlkit
import mtlkit.report
import mtlkit.run.experiment
import mtlkit.run.inference
import mtlkit.run.predicting
import mtlkit.run.progress
from mtlkit import BALANCERS
from mtlkit.cli.main import main, warnings_in_words
from mtlkit.config.schema import Config
from mtlkit.convex import SolverError
from mtlkit.engine.losses import NonFiniteError

ROOT = Path(__file__).parents[1]


class FakeExperiment:
    """Fails, or does nothing, instead of training."""

    failures: dict[str, BaseException]
    runs: list[tuple[str, bool]]

    def __init__(self, config: Config, overrides: Sequence[str] = ()) -> None:
        self.config = config
        self.folder = Path(config.output_dir)
        self.overrides = overrides

    def run(self, resume: bool = False, observers: object = ()) -> Path:
        self.runs.append((self.folder.name, resume))
        if failure := self.failures.get(self.folder.name):
            raise failure
        return self.folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(FakeExperiment, "failures", {}, raising=False)
    monkeypatch.setattr(FakeExperiment, "runs", [], raising=False)
    monkeypatch.setattr(mtlkit.report, "summary", lambda run: [f"figures of {run}"])
    monkeypatch.setattr(mtlkit.run.experiment, "Experiment", FakeExperiment)
    monkeypatch.setattr(mtlkit.run.progress, "Experiment", FakeExperiment)  # that of a sweep
    monkeypatch.delenv("MTLKIT_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return SimpleNamespace(failures=FakeExperiment.failures, done=FakeExperiment.runs)


def test_a_run(runs: SimpleNamespace, capsys: pytest.CaptureFixture):
    assert main(["train", "multimnist", "balancer=rotograd", "output_dir=runs/a"]) == 0
    assert runs.done == [("a", False)]
    assert capsys.readouterr().out == "figures of runs/a\n"


def test_options_may_stand_anywhere(runs: SimpleNamespace):
    assert main(["train", "multimnist", "seed=1", "--resume", "output_dir=runs/a", "~task.left"]) == 0
    assert main(["train", "--resume", "multimnist", "output_dir=runs/b"]) == 0
    assert runs.done == [("a", True), ("b", True)]


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (ValueError("no such size"), 2, "no such size"),
        (LookupError("no such name"), 2, "no such name"),
        (FileExistsError("runs/a holds a run"), 2, "runs/a holds a run"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl"), 2, "No space left on device"),
        (NonFiniteError("the loss of depth is nan"), 3, "the loss of depth is nan"),
        (SolverError("quadratic program", 3, 0.5), 3, "The quadratic program of 3 tasks was not solved"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_a_failure_is_one_message_and_a_status(
    runs: SimpleNamespace, capsys: pytest.CaptureFixture, failure: BaseException, status: int, message: str
):
    runs.failures["a"] = failure
    assert main(["train", "multimnist", "output_dir=runs/a"]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("mtlkit: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    "failure", [KeyError("k"), IndexError("i"), TypeError("t"), AssertionError("a"), RuntimeError()]
)
def test_a_bug_keeps_its_traceback(runs: SimpleNamespace, failure: Exception):
    runs.failures["a"] = failure
    with pytest.raises(type(failure)):
        main(["train", "multimnist", "output_dir=runs/a"])


def test_debugging_shows_every_traceback(runs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MTLKIT_DEBUG", "1")
    runs.failures["a"] = ValueError("no such size")
    with pytest.raises(ValueError, match="no such size"):
        main(["train", "multimnist", "output_dir=runs/a"])


def test_only_the_main_process_speaks(
    runs: SimpleNamespace, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    runs.failures["a"] = ValueError("no such size")
    assert main(["train", "multimnist", "output_dir=runs/a"]) == 2
    assert capsys.readouterr() == ("", "mtlkit: rank 1: no such size\n")  # the main process may not have failed
    assert main(["train", "multimnist", "output_dir=runs/b"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "words",
    [
        ["trian", "multimnist"],
        ["train"],
        ["train", "multimnist", "--resum"],
        ["list", "balancer"],
        ["predict", "runs/a", "image.jpg"],
        ["evaluate", "runs/a", "--split", "all"],
        ["report", "runs/a", "runs/b"],
    ],
)
def test_wrong_words_are_a_users_mistake(words: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


ADVICE = {
    "train": "EXPERIMENT is missing: a name (mtlkit list experiments) or a YAML file.\nFor example: mtlkit train ",
    "list": "KIND is missing: balancers, tasks, datasets, kinds, encoders, decoders, experiments, presets, studies.\n",
    "predict": "RUN is missing: a run's folder; IMAGE is missing: image files and folders of images; --out is ",
    "data": "COMMAND is missing: show, prepare.\nFor example: mtlkit data show ",
    "data show": "EXPERIMENT is missing: ",
    "trian scenes": "there is no 'trian' here. Did you mean 'train'? ",
    "list balancer": "there is no 'balancer' here. Did you mean 'balancers'? ",
    "train scenes --lr 0.1": "there is no --lr here; settings are written key=value, without dashes: trainer.lr=0.1.",
    "train --lr=0.1 scenes": "without dashes: trainer.lr=0.1.",
    "train scenes --batch-size 8 seed=1": "without dashes: data.batch_size=8.",
    "data show scenes --root /x": "without dashes: data.root=/x.",
    "train scenes --balancer rotograd": "without dashes: balancer=rotograd.",
    "train scenes --epochs": "without dashes: trainer.max_epochs=VALUE.",
    "train scenes --foo 3": "without dashes, such as trainer.lr=0.1.",
    "train scenes --resum": "there is no --resum here; did you mean --resume?",
    "report runs/a data.root=/x": "there is no data.root=/x here; mtlkit report takes no key=value.",
    "evaluate runs/a --root /x": "without dashes: data.root=/x.",
}


@pytest.mark.parametrize(("words", "advice"), ADVICE.items(), ids=ADVICE)
def test_a_message_says_what_to_write(words: str, advice: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert advice in error
    assert error.startswith("mtlkit")
    assert error.count("error: ") == 1


@pytest.mark.parametrize("command", [["evaluate"], ["report"], ["explain"], ["predict", "x.png", "--out", "out"]])
def test_a_folder_of_runs_names_those_in_it(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    command, *rest = command
    (tmp_path / "x.png").write_bytes((ROOT / "docs" / "demo.png").read_bytes())
    rest = [str(tmp_path / word) if word == "x.png" else word for word in rest]
    for folder, hint in (
        (tmp_path, f"Runs in it: {tmp_path / 'a'}, {tmp_path / 'b'}."),
        (tmp_path / "a" / "checkpoints", f"The run's folder is {tmp_path / 'a'}."),
        (tmp_path / "c", f"it does not exist. Runs in {tmp_path}: {tmp_path / 'a'}, {tmp_path / 'b'}."),
    ):
        assert main([command, str(folder), *rest]) == 2
        assert hint in capsys.readouterr().err


SWEEP = ["train", "multimnist", "balancer=uniform,fixed", "--multirun", "seed=0,1", "output_dir=runs/sweep"]
JOBS = [f"balancer={balancer},seed={seed}" for balancer in ("uniform", "fixed") for seed in (0, 1)]


def test_a_sweep_runs_every_job_in_its_own_folder(runs: SimpleNamespace, capsys: pytest.CaptureFixture):
    assert main(SWEEP) == 0
    assert runs.done == [(job, False) for job in JOBS]
    assert f"Job 3 of 4: runs/sweep/{JOBS[2]}\n" in capsys.readouterr().out


def test_a_failing_job_does_not_stop_the_others(runs: SimpleNamespace, capsys: pytest.CaptureFixture):
    runs.failures |= {JOBS[0]: NonFiniteError("nan"), JOBS[1]: RuntimeError("out of memory"), JOBS[3]: ValueError("no")}
    assert main([*SWEEP, "--resume"]) == 3  # the exit status of the first failure
    assert runs.done == [(job, True) for job in JOBS]
    error = capsys.readouterr().err
    assert f"mtlkit: runs/sweep/{JOBS[0]}: nan\n" in error
    assert "RuntimeError: out of memory" in error
    assert f"mtlkit: runs/sweep/{JOBS[3]}: no\n" in error


def test_ctrl_c_stops_a_sweep(runs: SimpleNamespace):
    runs.failures |= {JOBS[0]: ValueError("no"), JOBS[1]: KeyboardInterrupt()}
    assert main(SWEEP) == 130
    assert len(runs.done) == 2


def test_a_sweep_is_checked_whole_before_its_first_job(runs: SimpleNamespace, capsys: pytest.CaptureFixture):
    assert main(["train", "multimnist", "trainer.lr=0.1,fast", "--multirun"]) == 2
    assert runs.done == []
    assert "trainer.lr: expected a number >= 1e-30 and <= 1000000, found 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["balancers", "tasks", "datasets", "encoders", "decoders", "experiments"])
def test_list_gives_a_line_on_each(kind: str, capsys: pytest.CaptureFixture):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert lines == sorted(lines)
    assert all(len(line.split()) >= 3 for line in lines), lines  # a name and a description


def test_list_names_what_can_be_used(capsys: pytest.CaptureFixture):
    main(["list", "balancers"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == BALANCERS.names()
    main(["list", "experiments"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert dict(lines)["multimnist"].startswith("Two overlapping digits: ")
    main(["list", "encoders"])
    assert "timm" in capsys.readouterr().out.splitlines()[-1]


@pytest.fixture
def run_a(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes the folder of a run, `runs/a`."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("run_a")
def test_evaluate_prints_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def evaluate(*given: object, classes: bool) -> dict[str, float | None]:
        assert given == (Path("runs/a"), "test", "last", ["data.workers=2"])
        return {"loss/depth": 0.25, "depth/abs": None} | ({"area/iou/sky": 0.5} if classes else {})

    monkeypatch.setattr(mtlkit.run.inference, "evaluate_run", evaluate)
    words = ["evaluate", "runs/a", "--split", "test", "--checkpoint", "last", "data.workers=2"]
    figures = ["loss/depth  0.25", "depth/abs   -"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == figures
    assert main([*words, "--classes"]) == 0
    assert capsys.readouterr().out.splitlines() == [*figures, "", "area  iou", "sky   0.5"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss/depth": 0.25, "depth/abs": None}


@pytest.mark.usefixtures("run_a")
def test_predict_and_report_name_what_they_wrote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def predict(run: Path, images: list[Path], out: Path, checkpoint: str, **options: object) -> list[Path]:
        assert (run, images, checkpoint) == (Path("runs/a"), [Path("1.png"), Path("2.png")], None)
        assert options == {"tasks": ["a", "b"], "arrays": False, "batch": 4}
        return [out / image.stem for image in images]

    monkeypatch.setattr(mtlkit.run.predicting, "predict_files", predict)
    monkeypatch.setattr(mtlkit.report, "write_report", lambda run, single: run / "report.html")
    options = ["--tasks", "a,b", "--no-arrays", "--batch", "4"]
    assert main(["predict", "runs/a", "1.png", "2.png", "--out", "out", *options]) == 0
    assert main(["report", "runs/a"]) == 0
    assert capsys.readouterr().out.splitlines() == ["out/1", "out/2", "runs/a/report.html"]


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_process_of_its_own_says_one_message_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "my_lab.py").write_text(LAB)
    words = [sys.executable, "-P", "-B", "-m", "mtlkit", "train", "multimnist"]
    done = subprocess.run(
        [*words, "plugins=[my_lab]", "balancer=mine", "balancer.slop=1"],
        cwd=tmp_path,  # -P keeps this folder off the path, so the command must add it
        env=os.environ | {"OMP_NUM_THREADS": "1", "MTLKIT_DEBUG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "Loading PyTorch ...\n")
    assert done.stderr == (
        "mtlkit: balancer.slop: balancer 'mine' has no option 'slop' (in the override 'balancer.slop=1'). "
        "Did you mean 'slope'? Known: lr, lr_decay, name, slope, space.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["my_lab.py"]


LAB = """
from mtlkit import BALANCERS
from mtlkit.balancer import Balancer

@BALANCERS.register("mine")
class Mine(Balancer):
    def __init__(self, tasks, *, slope: float = 1.0, **options):
        super().__init__(tasks, **options)
"""


@pytest.mark.parametrize("room", ["", "run", "config", "data", "cli"])
def test_warnings_of_every_room_are_shown_as_a_sentence(room, capsys):
    file = Path(mtlkit.__file__).parent / room / "anything.py"
    with warnings_in_words():
        warnings.simplefilter("always")
        warnings.warn_explicit("the best is lost", UserWarning, str(file), 1)
    assert capsys.readouterr().err == "mtlkit: warning: the best is lost\n"


def test_warnings_of_others_are_left_to_python(tmp_path, capsys):
    with pytest.warns(UserWarning, match="beware"), warnings_in_words():
        warnings.warn_explicit("beware", UserWarning, str(tmp_path / "other.py"), 7)
    assert capsys.readouterr().err == ""


def test_a_wrong_option_of_a_balancer_is_refused_before_the_data_sets_are_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where `scenes` would render its frames
    words = ["data.train_size=2", "data.val_size=2", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", "scenes", "balancer=cagrad", "balancer.c=-1", *words]) == 2
    assert "balancer.c must be a number" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("words", [["list", "balancers"], ["describe", "trainer"], ["train", "demo", "--cfg"]])
def test_a_reader_that_stops_gets_no_complaint(words):
    """As `mtlkit list balancers | head -n 1` does. Enough lines follow that the pipe breaks."""
    command = [sys.executable, "-m", "mtlkit", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(120) == 141
