"""Studies: their runs are made, skipped, resumed, refused, tuned and compared."""

import csv
import errno
import importlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from study_lab import write_lab

import mtlkit
from mtlkit.cli.experiments import experiments, studies
from mtlkit.cli.main import main
from mtlkit.config.composition import read_config
from mtlkit.report.history import History
from mtlkit.run import checkpoint
from mtlkit.run.claim import claimed
from mtlkit.run.progress import progress_of
from mtlkit.study.claims import check_claims, parse_claim
from mtlkit.study.definition import Study, read_study, study_of
from mtlkit.study.existing import compare_runs
from mtlkit.study.methods import STATIC, name_of, single_task, weightings
from mtlkit.study.outcome import SINGLE
from mtlkit.study.plan import Plan
from mtlkit.study.single import single_task as single_figures

WORDS = ["compare", "lab.yaml", "balancer=uniform,cagrad", "seed=0,1"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, forgetting):
    """A folder with the experiment `lab.yaml`, a finished study in `studies/whole`, and what the command printed."""
    folder = tmp_path_factory.mktemp("lab")
    write_lab(folder)
    with pytest.MonkeyPatch.context() as patch, forgetting():
        patch.setattr("mtlkit.run.showing.write_report", lambda run, ending: None)  # as in the fixture `no_report`
        pages = folder / "pages.jsonl"
        patch.setattr(
            "mtlkit.study.single.write_report",
            lambda run, single: write_text(pages, f"{json.dumps([run.name, single])}\n"),
        )
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert main([*WORDS, "output_dir=studies/whole"]) == 0
    return folder


def write_text(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture(autouse=True)
def _in_the_lab(lab, monkeypatch, no_report):
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(str(lab))
    importlib.import_module("pictures_lab")  # a run's own file alone would not be trusted with it


def runs(folder):
    return sorted(path.parent for path in Path(folder).rglob("metrics.jsonl"))


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def figures(run):
    return {key: value for key, value in History(run).trained.items() if "/" in key}


def test_a_study_makes_its_runs_and_those_it_needs():
    found = {run.name for run in runs("studies/whole/runs")}
    methods = ("uniform", "cagrad", "single-task_area", "single-task_depth")
    assert found == {f"{method},seed={seed}" for method in methods for seed in (0, 1)}
    single = read_config(Path("studies/whole/runs/single-task_depth,seed=1/config.yaml"))
    both = read_config(Path("studies/whole/runs/cagrad,seed=1/config.yaml"))
    assert (list(single.task), single.balancer.name, single.seed) == (["depth"], "uniform", 1)
    assert single.task["depth"] == both.task["depth"]
    assert (single.trainer, single.model, single.data) == (both.trainer, both.model, both.data)


def alone(seed, *tasks):
    """The figures of the single-task runs of a seed, without those of single classes."""
    found = [figures(Path(f"studies/whole/runs/single-task_{task},seed={seed}")) for task in tasks]
    return {k: v for one in found for k, v in one.items() if k.count("/") == 1 and not k.startswith("loss/")}


def test_the_pages_of_runs_have_the_figures_of_single_task_training(tmp_path):
    whole = Path("studies/whole").resolve()
    for seed in (0, 1):
        own = single_figures(whole / f"runs/cagrad,seed={seed}")
        assert own == alone(seed, "area", "depth")
        assert {"area/miou", "depth/abs"} < set(own)
    assert alone(0, "depth") != alone(1, "depth")
    pages = [json.loads(line) for line in Path("pages.jsonl").read_text().splitlines()]
    assert pages == [
        [f"{method},seed={seed}", alone(seed, "area", "depth")] for seed in (0, 1) for method in ("uniform", "cagrad")
    ]
    assert single_figures(whole / "runs/single-task_depth,seed=1") == {}
    shutil.copytree(whole, tmp_path / "copy")
    log = tmp_path / "copy/runs/single-task_depth,seed=1/metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))  # it was killed before its end
    assert single_figures(tmp_path / "copy/runs/cagrad,seed=1") == alone(1, "area")
    (tmp_path / "copy/runs/cagrad,seed=1").rename(tmp_path / "cagrad,seed=1")
    assert single_figures(tmp_path / "cagrad,seed=1") == {}  # it lies in no study
    (tmp_path / "copy/study.yaml").write_text("methods: 3\n")
    with pytest.raises(ValueError, match=r"study\.yaml: methods: expected a mapping or a list, found 3\."):
        single_figures(tmp_path / "copy/runs/uniform,seed=1")


def test_results_are_files():
    rows = table("studies/whole/results.csv")
    assert {row["method"] for row in rows} == {SINGLE, "uniform", "cagrad"}
    run = Path("studies/whole/runs/cagrad,seed=1")
    own = {f"{row['task']}/{row['metric']}": row["value"] for row in rows if row["run"] == str(run) and row["task"]}
    assert own
    assert {key: float(value) for key, value in own.items()} == {key: figures(run)[key] for key in own}
    assert "below 3, there are no intervals" in Path("studies/whole/table.md").read_text()
    assert r"\toprule" in Path("studies/whole/table.tex").read_text()


def test_a_second_call_makes_nothing_anew(capsys):
    before = {run: (run / "metrics.jsonl").stat().st_mtime_ns for run in runs("studies/whole")}
    assert main([*WORDS, "output_dir=studies/whole"]) == 0
    assert "8 of 8 runs are done already." in capsys.readouterr().out
    assert {run: (run / "metrics.jsonl").stat().st_mtime_ns for run in runs("studies/whole")} == before


@pytest.mark.parametrize(("way", "status"), [("stops", 130), ("terminated", 75)])
def test_ctrl_c_or_sigterm_and_another_call_give_the_same_figures(capsys, way, status):
    words = [*WORDS, "--no-baselines", f"output_dir=studies/{way}"]
    assert main([*words, f"trainer.observers=[{way}]"]) == status
    assert capsys.readouterr().err.count("\n") == 1
    stopped = Path(f"studies/{way}/runs/cagrad,seed=1")
    assert progress_of(stopped) == "begun"
    assert main(words) == 0
    assert "3 of 4 runs are done already." in capsys.readouterr().out
    for run in runs(f"studies/{way}"):
        assert figures(run) == figures(Path("studies/whole/runs") / run.name)


def test_a_study_may_grow_and_nothing_else_may_change(capsys):
    words = ["compare", "lab.yaml", "balancer=uniform", "seed=0", "--no-baselines", "output_dir=studies/grows"]
    assert main(words) == 0
    more = [*words[:2], "balancer=uniform,cagrad", *words[3:]]
    assert main([*more, "data.workers=0"]) == 0  # a word that changes no figure
    assert "1 of 2 runs are done already." in capsys.readouterr().out
    for changed, said in (
        ([*more, "trainer.lr=0.5"], "words: none there, trainer.lr=0.5 here"),
        (words, "method cagrad: 'balancer=cagrad' there"),
        ([*more[:3], "seed=1", *more[4:]], "seed 0 is there and not here"),
        ([*more, "--tune", "trainer.lr=0.1,0.2"], "tune: none there, trainer.lr=0.1,0.2 here"),
    ):
        assert main(changed) == 2
        assert said in capsys.readouterr().err


def test_a_run_with_other_settings_is_named(capsys):
    folder = Path("studies/other")
    words = ["compare", "lab.yaml", "balancer=uniform", "seed=0", "--no-baselines", f"output_dir={folder}"]
    assert main(words) == 0
    (folder / "study.yaml").unlink()
    assert main([*words, "trainer.lr=0.5", "trainer.max_steps=6"]) == 2
    error = capsys.readouterr().err
    assert "trainer.lr is 0.001 there and 0.5 now; trainer.max_steps is 4 there and 6 now" in error


def test_two_calls_at_once(capsys):
    with claimed(Path("studies/whole")):
        assert main([*WORDS, "output_dir=studies/whole"]) == 2
    assert "studies/whole is in use" in capsys.readouterr().err


def test_failures_are_reported_and_stop_nobody(capsys):
    words = ["compare", "lab.yaml", "balancer=falls,buggy,uniform", "seed=0", "--no-baselines"]
    words += ["output_dir=studies/failing", "--reference", "falls"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert "falls, seed 0: FAILED: the problem has no solution" in said.out
    assert "AttributeError" in said.err  # a fault of a plug-in keeps its traceback
    text = Path("studies/failing/table.md").read_text()
    assert "Failed: buggy, seed 0" in text
    assert "No run of the reference falls finished" in text
    assert main(words) == 2  # what diverged is not tried again
    assert "falls, seed 0: FAILED in an earlier call: the problem has no solution" in capsys.readouterr().out


def test_missing_data_end_it_before_any_run(capsys):
    assert main(["compare", "nyuv2", "seed=0", "data.root=nowhere", "output_dir=studies/nodata"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not list(Path("studies/nodata").rglob("metrics.jsonl"))


def test_several_processes_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*WORDS, "output_dir=studies/many"]) == 2
    assert "mtlkit compare is one process" in capsys.readouterr().err


def test_only_failures(capsys):
    words = ["compare", "lab.yaml", "balancer=falls", "seed=0", "--no-baselines", "output_dir=studies/nothing"]
    assert main(words) == 2
    assert "no finished run of a multi-task method" in capsys.readouterr().err


def test_a_full_disk_in_the_middle(capsys, monkeypatch):
    words = ["compare", "lab.yaml", "balancer=uniform,cagrad", "seed=0", "--no-baselines", "output_dir=studies/disk"]
    save, full = checkpoint.write_checkpoint, []

    def fails(snapshot, folder, **options):
        if "uniform" in str(folder) and not full:
            full.append(folder)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        save(snapshot, folder, **options)

    monkeypatch.setattr(checkpoint, "write_checkpoint", fails)
    assert main(words) == 2
    assert "No space left on device" in capsys.readouterr().out
    assert main(words) == 0
    assert figures(Path("studies/disk/runs/uniform,seed=0")) == figures(Path("studies/whole/runs/uniform,seed=0"))


def test_tuning_gives_every_method_the_same_budget(capsys):
    words = ["compare", "lab.yaml", "balancer=uniform", "seed=0", "output_dir=studies/tuned"]
    assert main([*words, "--tune", "trainer.lr=1e-7,1e-2", "--static-weights", "2"]) == 0
    rows = table("studies/tuned/tuning.csv")
    trials = {(row["method"], row["task"]): [] for row in rows}
    for row in rows:
        trials[row["method"], row["task"]].append(row)
    assert {key: len(found) for key, found in trials.items()} == {
        (SINGLE, "area"): 2,
        (SINGLE, "depth"): 2,
        ("uniform", ""): 2,
        (STATIC, ""): 4,  # two weightings at two rates
    }
    for found in trials.values():
        best = min(found, key=lambda row: float(row["score"]))
        assert [row["words"] for row in found if row["chosen"] == "true"] == [best["words"]]
    # The score is the figure of the validation data by which the run selected its model, with a seed of its own.
    run = next(run for run in runs("studies/tuned/tuning") if run.name.startswith("uniform,trainer.lr=0.01"))
    assert read_config(run / "config.yaml").seed == 1000
    row = next(row for row in trials["uniform", ""] if row["words"] == "trainer.lr=0.01")
    assert float(row["score"]) == History(run).trained["monitor"]
    chosen = next(row["words"] for row in trials["uniform", ""] if row["chosen"] == "true")
    config = read_config(Path("studies/tuned/runs/uniform,seed=0/config.yaml"))
    assert float(chosen.partition("=")[2]) == config.trainer.lr


def test_the_plan_of_a_study(capsys):
    words = ["compare", "lab.yaml", "balancer=uniform,cagrad", "seed=0,1,2", "output_dir=studies/planned", "--plan"]
    assert main(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["uniform", "0", "3"] in [line[:3] for line in lines]
    assert ["sum", "0", "12"] in [line[:3] for line in lines]
    assert not Path("studies/planned").exists()


# -- definitions ------------------------------------------------------------------------------------------------------


def plan(*words, **options):
    study, folder = study_of("lab.yaml", words, **options)
    return Plan(study, folder)


def test_every_swept_key_distinguishes_methods():
    study, folder = study_of("lab.yaml", ["balancer={name:rotograd,scale_only:true},uniform", "seed=3,1"])
    assert study.methods == {
        "rotograd scale_only=true": "'balancer={name:rotograd,scale_only:True}'",
        "uniform": "balancer=uniform",
    }
    assert (study.seeds, study.words, folder) == ((3, 1), (), Path("studies/lab"))
    found = {job.method.name: job.config for job in Plan(study, folder).runs({"rotograd scale_only=true": ()})}
    assert found["rotograd scale_only=true"].balancer.options["scale_only"] is True


def test_methods_that_differ_in_more_than_the_balancer_get_baselines_of_their_own():
    found = plan("balancer=uniform,cagrad", "model.encoder=test_resnet,test_vit", "model.levels=null", "seed=0")
    bases = {method.name: method.base for method in found.methods if not method.task}
    assert bases["cagrad model.encoder=test_vit"] == f"{SINGLE} model.encoder=test_vit"
    jobs = {job.method.label: job.config for job in found.runs(found.untuned)}
    assert jobs[f"{SINGLE} model.encoder=test_vit depth"].model.encoder == "test_vit"
    assert len(jobs) == 4 + 4


def test_a_seed_that_other_settings_refer_to(lab):
    text = Path("lab.yaml").read_text()
    Path("refers.yaml").write_text(text.replace("max_steps: 4", 'max_steps: 4, schedule: step, step_size: "${seed}"'))
    for name, expected in (("lab.yaml", {5: None, 7: None}), ("refers.yaml", {5: 5, 7: 7})):
        study, folder = study_of(name, ["seed=5,7"], baselines=False)
        jobs = Plan(study, folder).runs({"uniform": ()})
        assert {job.config.seed: job.config.trainer.step_size for job in jobs} == expected


def test_options_of_a_balancer_are_the_methods_alone():
    found = plan("balancer=gradnorm", "balancer.alpha=0.5,1.5", "seed=0")
    assert [method.label for method in found.methods] == [
        f"{SINGLE} area",
        f"{SINGLE} depth",
        "gradnorm alpha=0.5",
        "gradnorm alpha=1.5",
    ]


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        (None, {"area": None, "depth": None}),
        ("depth/abs", {"area": None, "depth": "depth/abs"}),
        ("*/miou", {"area": "*/miou", "depth": None}),
    ],
)
def test_a_baseline_is_selected_as_the_methods_are_where_it_can_be(monitor, expected):
    (job,) = plan("balancer=uniform", f"trainer.monitor={monitor or 'null'}", "seed=0", baselines=False).runs(
        {"uniform": ()}
    )
    assert {task: single_task(job.config, task).trainer.monitor for task in ("area", "depth")} == expected


def test_weightings_are_on_the_simplex_and_the_first_is_equal():
    found = [
        yaml.safe_load(words[0].partition("weights:")[2][:-1].replace(":", ": ")) for words in weightings("abc", 5)
    ]
    assert found[0] == {"a": 1, "b": 1, "c": 1}
    assert [sum(one.values()) for one in found] == pytest.approx([3] * 5, abs=1e-3)  # five digits are written
    assert min(min(one.values()) for one in found) >= 0
    assert weightings("abc", 5) == weightings("abc", 7)[:5]


def test_names_of_methods():
    assert name_of(["balancer=gradnorm", "trainer.lr=0.1", "balancer.alpha=0.5"]) == "gradnorm alpha=0.5 trainer.lr=0.1"


STUDY = {"experiment": "lab.yaml", "methods": ["uniform", "cagrad"], "seeds": [0, 1]}


def write_study(**changes):
    Path("one.yaml").write_text(yaml.safe_dump(STUDY | changes))
    return Path("one.yaml")


def test_methods_of_a_file_run_with_their_options():
    methods = {"a": {"name": "gradnorm", "alpha": 0.5}, "b": ["balancer=gradnorm", "balancer.alpha=2.0"], "c": None}
    study, folder = read_study(write_study(methods=methods, baselines=False))
    jobs = {job.method.name: job.config for job in Plan(study, folder).runs(dict.fromkeys("abc", ()))}
    assert (jobs["a"].balancer.options["alpha"], jobs["b"].balancer.options["alpha"]) == (0.5, 2.0)
    assert jobs["c"].balancer.name == "uniform"


def test_a_study_is_a_file_that_reads_back(tmp_path):
    study, folder = read_study(write_study(tune=["trainer.lr=1e-3,1e-2"], claims=["depth/abs of uniform > 0"]))
    assert (study.methods, folder) == (
        {"uniform": "balancer=uniform", "cagrad": "balancer=cagrad"},
        Path("studies/one"),
    )
    study.save(tmp_path)
    assert read_study(tmp_path / "study.yaml") == (study, tmp_path)
    words = ["seed=7", "trainer.lr=0.5", "output_dir=elsewhere"]
    changed, folder = read_study(Path("one.yaml"), words, reference="cagrad")
    assert (changed.seeds, changed.words, changed.reference) == ((7,), ("trainer.lr=0.5",), "cagrad")
    assert folder == Path("elsewhere")


@pytest.mark.filterwarnings("ignore:protocol=published")
@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"claims": ["depth/abs of rotograd < depth/abs of uniform"]}, (), "about the method 'rotograd'"),
        ({"claims": ["depth/abs is fine"]}, (), "claim"),
        ({"seed": [0]}, (), "seed: unknown key.*Did you mean 'seeds'"),
        ({"methods": {"a": "balancer=unifrm"}}, (), "there is no 'unifrm'.*uniform"),
        ({"methods": {"a b": "balancer=uniform", "a_b": "balancer=cagrad"}}, (), "both be called 'a_b'"),
        ({"methods": {SINGLE: "balancer=uniform"}}, (), "is the name of the baselines"),
        ({"tune": ["trainer.lr=0.1"]}, (), "tune: trainer.lr=0.1 has one value"),
        ({"tune": ["trainer.lr=0.1,0.2"], "tune_seeds": [1]}, (), r"tuning must not see a seed of the results: \[1\]"),
        ({"static_weights": -1}, (), "static_weights: expected 0 or more"),
        ({"seeds": [0, 0]}, (), "a seed is there twice"),
        ({"seeds": []}, (), "there is no seed"),
        ({}, ["balancer=uniform,cagrad"], r"only seed=\.\.\. may have several values"),
        ({}, ["trainer.lr=fast"], "trainer.lr: expected a number"),
        (
            {"tune": ["trainer.lr=0.1,0.2"], "words": ["data.validation=test", "protocol=published"]},
            (),
            "validates on test data",
        ),
    ],
)
def test_mistakes_in_a_study_end_it_before_any_run(changes, words, message, capsys):
    path = write_study(**changes)
    assert main(["compare", str(path), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("studies/one").exists()


# -- runs that exist --------------------------------------------------------------------------------------------------


def test_runs_that_exist_give_the_same_comparison(capsys):
    found = runs("studies/whole/runs")
    assert main(["compare", *map(str, found), "output_dir=studies/again"]) == 0
    rows = [table(f"studies/{name}/results.csv") for name in ("whole", "again")]
    keys = ("method", "seed", "task", "metric", "value")
    one, two = ({tuple(row[key] for key in keys) for row in own if row["task"]} for own in rows)
    assert one == two
    assert main(["compare", *map(str, found), "output_dir=studies/whole"]) == 2
    assert "holds a study" in capsys.readouterr().err


def copy_run(source, target, **changes):
    """Copies a run's config.yaml and log, and changes keys of its configuration."""
    target.mkdir(parents=True)
    values = yaml.safe_load((source / "config.yaml").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    (target / "config.yaml").write_text(yaml.safe_dump(values))
    (target / "metrics.jsonl").write_bytes((source / "metrics.jsonl").read_bytes())
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__levels": [1]}, r"different experiments: model.levels is \[2\] and \[1\]"),
        ({"trainer__selection": "last"}, "trainer.selection is 'best' and 'last'"),
        ({"trainer__max_steps": 8}, "trainer.max_steps is 4 and 8"),
    ],
)
def test_runs_of_different_experiments_are_refused(tmp_path, changes, message):
    first = Path("studies/whole/runs/uniform,seed=0")
    other = copy_run(Path("studies/whole/runs/cagrad,seed=0"), tmp_path / "other", **changes)
    with pytest.raises(ValueError, match=message):
        compare_runs([first, other])
    alone = copy_run(Path("studies/whole/runs/single-task_depth,seed=0"), tmp_path / "alone", **changes)
    with pytest.raises(ValueError, match=message):  # single-task runs must be alike, too
        compare_runs([first, alone])


def test_runs_of_one_balancer_are_named_by_what_differs(tmp_path):
    source = Path("studies/whole/runs/cagrad,seed=0")
    other = copy_run(source, tmp_path / "other", balancer__c=0.9)
    found = compare_runs([source, other, Path("studies/whole/runs/uniform,seed=0")])
    assert found.methods == ["cagrad c=0.5", "cagrad c=0.9", "uniform"]


def test_a_run_that_has_not_finished_is_refused(tmp_path):
    source = Path("studies/whole/runs/cagrad,seed=0")
    begun = copy_run(source, tmp_path / "begun")
    lines = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["status"] == "finished"
    (begun / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"begun has not finished \(begun\)"):
        compare_runs([source, begun])
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        compare_runs([source, tmp_path / "nowhere"])


def test_test_data_are_measured_once_and_labelled(tmp_path, monkeypatch):
    found = [Path(f"studies/whole/runs/{name},seed=0") for name in ("uniform", "cagrad")]
    one = compare_runs(found, split="test")
    assert one.on_test
    assert one.values("cagrad", "depth/abs") != compare_runs(found).values("cagrad", "depth/abs")
    monkeypatch.setattr("mtlkit.study.outcome.evaluate_run", None)  # a second look needs no evaluation
    assert compare_runs(found, split="test").values("cagrad", "depth/abs") == one.values("cagrad", "depth/abs")


# -- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_can_be_called_again(capsys):
    words = ["train", "lab.yaml", "balancer=uniform,cagrad", "seed=0,1", "output_dir=sweep", "--multirun"]
    assert main([*words, "trainer.observers=[stops]"]) == 130
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("It has finished already.") == 3
    for balancer in ("uniform", "cagrad"):
        for seed in (0, 1):
            run = Path(f"sweep/balancer={balancer},seed={seed}")
            assert figures(run) == figures(Path(f"studies/whole/runs/{balancer},seed={seed}"))
    assert main([*words, "trainer.lr=0.5"]) == 2
    assert capsys.readouterr().err.count("trainer.lr is 0.001 there and 0.5 now") == 4


@pytest.mark.parametrize("name", sorted(studies()))
def test_the_studies_that_come_with_mtlkit_can_be_planned(name):
    file = Path(mtlkit.__file__).parents[1] / "configs" / "study" / f"{name}.yaml"
    assert name not in experiments()  # or `mtlkit compare NAME` would have two meanings
    study, folder = read_study(file)
    found = Plan(study, folder)
    check_claims(map(parse_claim, study.claims), [method.name for method in found.methods], found.tasks, study.metrics)
    comment = studies()[name]
    counted = len(found.trials) + len(found.runs({method.label: method.candidates[0] for method in found.methods}))
    assert f"{counted} runs" in comment


def test_a_study_needs_a_method():
    with pytest.raises(ValueError, match="no method"):
        Study(experiment="lab.yaml", methods={}, seeds=(0,))
