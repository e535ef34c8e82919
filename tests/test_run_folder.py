"""The folder of a run that begins or continues: failed starts, lost parts, file modes, and figures."""

import errno
import functools
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.config.composition import read_config
from mtlkit.data.dataset import DATASETS, Dataset, Target
from mtlkit.engine.engine import Engine
from mtlkit.report import explain, summary, write_report
from mtlkit.report.history import History
from mtlkit.run import checkpoint, checkpoint_folder, inference
from mtlkit.run.build import build_parts
from mtlkit.run.experiment import Experiment
from mtlkit.run.start import open_run
from mtlkit.run.trial_pass import check_halves, check_normalisation

YAML = """
data: {name: rooms_of_noise, batch_size: 4}
model: {encoder: test_resnet, levels: [1, 2]}
task: {seg: {type: segmentation}, depth: {type: depth}, flags: {type: multilabel, decoder: linear}}
trainer: {max_steps: 4, eval_every: 2, log_every: 1}
"""


@DATASETS.register("rooms_of_noise")
class Noise(Dataset):
    """Random pictures. With `lacking`, the validation split has no depth."""

    def __init__(self, root=None, split="train", size=None, limit=None, lacking=False):
        self.width, self.height = size or (48, 32)
        self.count, self.lacking = (12 if split == "train" else 5), lacking and split == "val"
        classes = {"seg": ("a", "b"), "depth": (), "flags": ("p", "q")}
        types = {"seg": "segmentation", "depth": "depth", "flags": "multilabel"}
        self.targets = {name: Target(types[name], classes[name]) for name in types}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        g = torch.Generator().manual_seed(index)
        targets = {
            "seg": torch.randint(0, 2, (self.height, self.width), generator=g),
            "depth": torch.rand(1, self.height, self.width, generator=g) + 1,
            "flags": torch.tensor([index % 2, 1.0]),
        }
        if self.lacking:
            targets["depth"] = torch.zeros_like(targets["depth"])
        return {"image": torch.rand(3, self.height, self.width, generator=g), "targets": targets}


@pytest.fixture
def compose(tmp_path, no_report):
    (tmp_path / "noise.yaml").write_text(YAML)

    def make(*words, folder="run"):
        return Experiment.compose(str(tmp_path / "noise.yaml"), [f"output_dir={tmp_path / folder}", *words])

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "noise.yaml").write_text(YAML)
    return Experiment.compose(str(folder / "noise.yaml"), [f"output_dir={folder / 'run'}"]).run()


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, in the folder that `compose` uses."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files_of(run):
    return {path.relative_to(run): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def incidents(run):
    return [record["incident"] for record in log.read_log(run / "metrics.jsonl") if "incident" in record]


# A figure that is logged, and the same one measured again


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_a_logged_figure_and_evaluate_agree_to_the_last_digit(compose, precision, capsys):
    words = [f"trainer.precision={precision}", "trainer.lr=0.05", "balancer=rotograd", "trainer.monitor=seg/miou"]
    run = compose(*words, "data.eval_batch_size=2").run()
    logged = {r["step"]: r for r in log.read_log(run / "metrics.jsonl") if r["split"] == "val"}
    at = checkpoint.steps(run)
    for name in ("last", "best"):
        figures = inference.evaluate_run(run, name=name)
        assert len(figures) > 10
        assert figures == {key: logged[at[name]][key] for key in figures}
    assert inference.evaluate_run(run) == inference.evaluate_run(run, name="best")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--checkpoint", "last"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed["loss/seg"] == f"{logged[4]['loss/seg']:.6g}"


def test_reduced_precision_is_not_that_of_float32(compose):
    """Otherwise the test above could not see a difference."""
    run = compose("trainer.precision=bf16", "trainer.max_steps=2").run()
    predictor = inference.load_run(run).predictor
    image = predictor.image(torch.rand(2, 3, 32, 48))
    reduced = predictor.outputs(image, {})["seg"]
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, predictor.model.eval()(image)["seg"])


# A monitored figure without a value


def test_a_figure_without_a_value_is_never_the_best(compose, no_report, tmp_path):
    no_report.undo()
    words = ["data.lacking=true", "trainer.monitor=depth/abs", "trainer.early_stopping=1"]
    run = compose(*words).run()
    assert log.last_step(run / "metrics.jsonl") == 4  # early stopping did not end the run
    assert not any(record.get("best") for record in log.read_log(run / "metrics.jsonl"))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last"]
    first, last = incidents(run)
    assert first.startswith("trainer.monitor=depth/abs: depth/abs has no value")
    assert "'last' stands for the results" in last
    history = History(run)
    assert history.trained["step"] == 4
    assert "the last evaluation is used for the trained model" in " ".join(history.notes)
    assert "the last evaluation is used for the trained model" in (run / "report.html").read_text()
    with pytest.warns(UserWarning, match="'last' stands for the results"):
        figures = inference.evaluate_run(run)
    assert figures["depth/abs"] is None
    compose(*words, "trainer.max_steps=6").run(resume=True)
    assert log.last_step(run / "metrics.jsonl") == 6


def test_a_task_without_labels_is_left_out_of_the_mean_and_named(compose):
    run = compose("data.lacking=true", "trainer.max_steps=2").run()
    (remark,) = incidents(run)
    assert "loss/depth has no value above 0" in remark
    assert "The mean over loss/seg, loss/flags" in remark
    assert (run / "checkpoints" / "best").is_dir()


# Starts that failed


def fail(self, batch):
    raise ValueError("out of memory, say")


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_without_a_finished_step_is_begun_anew(compose, monkeypatch, tmp_path, finished, resume):
    run = tmp_path / "run"
    monkeypatch.setattr(Engine, "train_step", fail)
    with pytest.raises(ValueError, match="out of memory"):
        compose("trainer.lr=0.5", "balancer=gradnorm").run()
    monkeypatch.undo()
    assert (run / "checkpoints" / "last").is_dir()  # it holds the untrained model
    compose("trainer.lr=0.001", "balancer=uniform").run(resume=resume)
    found, expected = (load_file(r / "checkpoints" / "last" / "model.safetensors") for r in (run, finished))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    one, two = (read_config(r / "config.yaml").to_dict() | {"output_dir": ""} for r in (run, finished))
    assert one == two
    assert len(log.read_log(run / "metrics.jsonl")) == len(log.read_log(finished / "metrics.jsonl"))


def test_a_resumed_start_without_a_finished_step_keeps_what_the_words_do_not_name(compose, monkeypatch):
    monkeypatch.setattr(Engine, "train_step", fail)
    with pytest.raises(ValueError, match="out of memory"):
        compose("balancer=gradnorm", "trainer.lr=0.5").run()
    monkeypatch.undo()
    config = read_config(compose("trainer.lr=0.01").run(resume=True) / "config.yaml")
    assert (config.trainer.lr, config.balancer.name) == (0.01, "gradnorm")


def test_a_refused_start_leaves_the_run_as_it_is(compose, copied):
    before = files_of(copied)
    with pytest.raises(FileExistsError, match=r"holds a run: the checkpoint 'best' of step .*, records up to step 4"):
        compose("trainer.lr=0.5").run()
    assert files_of(copied) == before
    shutil.rmtree(copied / "checkpoints")
    (copied / "config.yaml").unlink()  # the records alone must be kept too
    with pytest.raises(FileExistsError, match=r"holds a run: records up to step 4"):
        compose().run()
    with pytest.raises(FileNotFoundError, match=r"cannot be resumed: its config\.yaml is missing"):
        compose().run(resume=True)


def test_two_jobs_started_at_once_in_one_folder(tmp_path):
    """The message of the loser names the owner of the folder, and the folder contains only the winner's files."""
    (tmp_path / "noise.yaml").write_text(YAML)
    code = "import sys; sys.path.append(sys.argv.pop(1)); import test_run_folder; from mtlkit.cli.main import main\n"
    code += "from mtlkit.run import experiment; experiment.write_report = lambda run: None\n"
    code += "sys.exit(main(sys.argv[1:]))"
    rates, words = (0.01, 0.25), ("train", "noise.yaml", "output_dir=run")
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, Path(__file__).parent, *words, f"trainer.lr={lr}"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for lr in rates
    ]
    errors = [job.communicate(timeout=300)[1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 2], errors
    winner, loser = (0, 1) if jobs[0].returncode == 0 else (1, 0)
    # "holds a run" if the other job had ended before this one started
    assert f"in use: process {jobs[winner].pid} on" in errors[loser] or "holds a run" in errors[loser]
    assert read_config(tmp_path / "run" / "config.yaml").trainer.lr == rates[winner]
    logged = {
        record["lr/encoder"] for record in log.read_log(tmp_path / "run" / "metrics.jsonl") if "lr/encoder" in record
    }
    assert logged == {rates[winner]}


# Parts that are lost


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_that_is_offered(compose, copied):
    """From an earlier step than that of `last`, and after it from the new `last`, to the end of an undamaged run."""
    folder = copied / "checkpoints"
    shutil.rmtree(folder / "best")
    half = compose("trainer.max_steps=2", folder="half").run()
    shutil.copytree(half / "checkpoints" / "last", folder / "previous")
    file = folder / "last" / "training.pt"
    file.write_bytes(file.read_bytes()[:-9])
    before = files_of(copied)
    command = rf"mtlkit train '{copied}/config\.yaml' 'output_dir={copied}' --resume-from previous"
    with pytest.raises(ValueError, match=rf"last/training\.pt is damaged: .* 'previous' of step 2\. .*{command}"):
        open_run(compose("trainer.max_steps=6").config, None, resume=True)  # before the data set is opened
    with pytest.raises(FileNotFoundError, match=r"it has no checkpoint 'best'\. It has .*--resume-from last"):
        compose("trainer.max_steps=6").run(resume="best")
    with pytest.raises(ValueError, match=r"cannot go on from 'previus'\. Did you mean 'previous'"):
        compose("trainer.max_steps=6").run(resume="previus")
    assert files_of(copied) == before
    words = [f"output_dir={copied}", "trainer.max_steps=6", "--resume-from", "previous"]
    assert main(["train", f"{copied}/config.yaml", *words]) == 0
    assert checkpoint.steps(copied)["last"] == 6
    steps = [r["step"] for r in log.read_log(copied / "metrics.jsonl") if r["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    whole = compose("trainer.max_steps=6", folder="whole").run()
    found, expected = (load_file(run / "checkpoints" / "last" / "model.safetensors") for run in (copied, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_that_goes_back_does_not_keep_a_best_checkpoint_of_later(compose, copied, monkeypatch):
    """Its last checkpoint is whole, and is replaced at once: a kill must not bring back what was given up."""
    folder = copied / "checkpoints"
    shutil.copytree(compose("trainer.max_steps=2", folder="half").run() / "checkpoints" / "last", folder / "previous")
    assert checkpoint.steps(copied) == {"best": 4, "last": 4, "previous": 2}

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", die)
        with pytest.raises(KeyboardInterrupt):
            compose("trainer.max_steps=6").run(resume="previous")
    assert checkpoint.steps(copied)["last"] == 2
    assert "'best' is of step 4, and the run goes on from step 2: the best" in incidents(copied)[-1]
    compose("trainer.max_steps=6").run(resume=True)
    assert [r["step"] for r in log.read_log(copied / "metrics.jsonl") if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_run_with_finished_steps_is_not_begun_anew_for_want_of_a_checkpoint(compose, copied):
    (copied / "checkpoints" / "last" / "training.pt").unlink()
    before = files_of(copied)
    with pytest.raises(ValueError, match=r"last/training\.pt is missing: .* Intact: 'best' of .*--resume-from best"):
        compose("trainer.max_steps=6").run(resume=True)
    shutil.move(copied / "checkpoints" / "last", copied / "gone")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'last'\. It has the .*'best'.*--resume-from best"):
        compose("trainer.max_steps=6").run(resume=True)
    shutil.move(copied / "gone", copied / "checkpoints" / "last")
    assert files_of(copied) == before
    compose("trainer.max_steps=6").run(resume="best")  # as the message says
    assert log.last_step(copied / "metrics.jsonl") == 6


def test_a_run_that_could_not_save_does_not_go_on(compose, copied, monkeypatch):
    """On a read-only disk, it would find out only after its first steps."""
    before = files_of(copied)

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(checkpoint_folder.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"checkpoints can be read, but nothing can be written there \(Read-only"):
        compose("trainer.max_steps=6").run(resume=True)
    assert files_of(copied) == before


def test_a_run_whose_classes_changed_places_is_refused(compose, copied, monkeypatch):
    """Each class would go on with the weights of another one."""
    before, targets = files_of(copied), {"seg": ("b", "a"), "depth": (), "flags": ("p", "q")}
    own = Noise.__init__

    @functools.wraps(own)
    def changed(self, *args, **named):
        own(self, *args, **named)
        self.targets = {name: Target(self.targets[name].type, classes) for name, classes in targets.items()}

    monkeypatch.setattr(Noise, "__init__", changed)
    with pytest.raises(ValueError, match=r"data\.json: the run began with the target 'seg' as segmentation \(a, b\)"):
        compose("trainer.max_steps=6").run(resume=True)
    assert files_of(copied) == before


def test_weights_are_enough_to_predict_and_evaluate(finished, copied):
    for name in ("best", "last"):
        (copied / "checkpoints" / name / "training.pt").unlink()
        assert inference.evaluate_run(copied, name=name) == inference.evaluate_run(finished, name=name)
    with pytest.raises(FileNotFoundError, match="'middle'; it has best, last"):
        checkpoint.find_checkpoint(copied, "middle")


def test_a_run_without_its_best_checkpoint_goes_on(compose, copied):
    shutil.rmtree(copied / "checkpoints" / "best")
    with pytest.warns(UserWarning, match="no checkpoint 'best'"):
        inference.evaluate_run(copied)
    compose("trainer.max_steps=6").run(resume=True)
    assert "The checkpoint 'best' was lost" in incidents(copied)[0]
    assert checkpoint.steps(copied)["best"] == 6  # the only evaluation since then
    assert [r["step"] for r in log.read_log(copied / "metrics.jsonl") if r.get("best")][-1] == 6


def test_the_figures_of_a_lost_best_checkpoint_are_not_the_results(compose, copied):
    """No steps are left, so no evaluation replaces the lost one. The table and `evaluate` show the same model."""
    shutil.rmtree(copied / "checkpoints" / "best")
    compose().run(resume=True)
    history = History(copied)
    assert (history.selection, history.trained_text) == ("last", "last (step 4)")
    assert "the checkpoint of the best evaluation was lost" in history.notes[0]
    with pytest.warns(UserWarning, match="no checkpoint 'best'"):
        figures = inference.evaluate_run(copied)
    assert figures == {key: history.trained[key] for key in figures}


def test_a_run_that_goes_on_cannot_become_shorter(compose, copied):
    before = files_of(copied)
    with pytest.raises(ValueError, match=r"at step 4 already, and would end at step 3 by trainer\.max_steps"):
        compose("trainer.max_steps=3").run(resume=True)
    assert files_of(copied) == before


@pytest.mark.parametrize("how", ["was lost", "is empty"])
def test_a_run_without_its_log_goes_on(compose, copied, finished, how):
    (copied / "metrics.jsonl").unlink()
    if how == "is empty":
        (copied / "metrics.jsonl").touch()
    assert inference.evaluate_run(copied) == inference.evaluate_run(finished)
    assert f"metrics.jsonl {how}" in write_report(copied).read_text()
    assert any(f"metrics.jsonl {how}" in str(part) for part in summary(copied))
    with pytest.raises(ValueError, match="no training steps"):
        explain(copied)
    compose("trainer.max_steps=6").run(resume=True)
    assert f"metrics.jsonl {how}" in incidents(copied)[0]
    steps = [record["step"] for record in log.read_log(copied / "metrics.jsonl") if record["split"] == "train"]
    assert steps == [5, 6]


def test_a_run_without_its_description_is_named(copied):
    (copied / "data.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.json is missing.*--resume"):
        inference.evaluate_run(copied)
    (copied / "data.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"data\.json is damaged"):
        inference.evaluate_run(copied)


def test_all_that_a_run_writes_has_the_mode_that_the_umask_gives(compose, no_report):
    no_report.undo()
    mask, before = 0o002, os.umask(0o002)  # as for a group that shares its files
    try:
        run = compose("trainer.max_steps=1").run()
        compose("trainer.max_steps=2").run(resume=True)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in run.rglob("*")}
    assert len(modes) > 20
    assert run / "report.html" in modes
    wrong = {path: oct(mode) for path, mode in modes.items() if mode != (0o777 if path.is_dir() else 0o666) & ~mask}
    assert not wrong


# Too few samples for a normalisation


def test_one_sample_a_micro_batch_is_refused_before_training(compose, tmp_path):
    words = ["task.seg.decoder=deeplabv3", "trainer.accumulation=4"]
    message = (
        r"The decoder 'deeplabv3' of task 'seg' normalises over a single value.*one sample per micro-batch.*"
        r"batch_size=4, trainer.accumulation=4, processes: 1.*batch_norm=frozen"
    )
    with pytest.raises(ValueError, match=message):
        compose(*words).run()
    assert not (tmp_path / "run").exists()
    run = compose(*words, "model.batch_norm=frozen", "trainer.max_steps=1").run()
    assert log.last_step(run / "metrics.jsonl") == 1


def test_a_smaller_last_batch_is_looked_at_before_training(compose, tmp_path):
    def words(size):  # there are twelve samples
        return f"data.batch_size={size}", "data.drop_last=false", "trainer.max_epochs=2", "trainer.max_steps=null"

    with pytest.raises(ValueError, match=r"single value.*batch_size=11; the last batch of an epoch has 1 samples"):
        compose(*words(11), "task.seg.decoder=deeplabv3").run()
    with pytest.raises(ValueError, match=r"modo compares two halves .*, but a micro-batch has 5 samples"):
        compose(*words(5), "balancer=modo").run()
    with pytest.raises(ValueError, match=r"the last one of an epoch has 3 samples .*batch_size=6, .*drop_last=false"):
        check_halves(SimpleNamespace(needs={"second_batch"}), compose(*words(6), "balancer=modo").config, 3)
    assert not (tmp_path / "run").exists()
    assert log.last_step(compose(*words(5)).run() / "metrics.jsonl") == 6  # 5, 5 and 2 samples, twice


def test_an_encoder_with_too_small_maps_is_refused_before_training(compose):
    with pytest.raises(ValueError, match=r"The encoder 'test_resnet' normalises over a single value.*one sample"):
        compose("data.size=[8,8]", "model.levels=null", "trainer.accumulation=4").run()


def test_the_last_batch_of_an_evaluation_may_be_one_sample(compose):
    # The batches of the evaluation have 4 samples and 1 sample.
    run = compose("task.seg.decoder=deeplabv3", "data.eval_batch_size=4", "trainer.max_steps=1").run()
    assert History(run).trained["loss/seg"] > 0


def test_the_pass_before_training_changes_nothing(compose):
    experiment = compose("balancer=rotograd")
    targets = DATASETS.build("rooms_of_noise").targets
    parts = build_parts(experiment.config, targets, (48, 32))
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    random = torch.get_rng_state()
    check_normalisation(parts, experiment.config, (48, 32), device=torch.device("cpu"), processes=2, batch_size=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in parts.model.state_dict().items())
