"""What a user can get wrong in a study is found before its first run, and leaves nothing behind."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from studies import FIGURES, compare, entries, write_run
from study_lab import write_lab

from mtlkit.cli.main import main
from mtlkit.study.comparison import Comparison
from mtlkit.study.conduct import SHARED, Carried, run_study
from mtlkit.study.cost import step_time
from mtlkit.study.definition import read_study, study_of
from mtlkit.study.existing import compare_runs
from mtlkit.study.gains import delta, gains
from mtlkit.study.launch import Here
from mtlkit.study.outcome import SINGLE, read_outcome
from mtlkit.study.plan import Plan
from mtlkit.study.ranking import ranks
from mtlkit.study.remarks import remarks
from mtlkit.study.table_notes import notes
from mtlkit.study.tuning import choose

WORDS = ["compare", "lab.yaml", "balancer=uniform,cagrad", "seed=0", "output_dir=out"]


@pytest.fixture(autouse=True)
def _lab(tmp_path, monkeypatch, no_report):
    write_lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.filterwarnings("ignore:protocol=published")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reference", "unifrom"], "reference: the study has no method 'unifrom'. Did you mean 'uniform'"),
        (["--metrics", "depth/abss"], "no run has the metric 'depth/abss'. Did you mean 'depth/abs'"),
        (["--delta-m", "avrage=metrics"], "delta_m: there is no option 'avrage'. Did you mean 'average'"),
        (["--delta-m", "average=metric"], "'average' of delta-m"),
        (["--delta-m", "without=depht"], "there is no task 'depht'. Did you mean 'depth'"),
        (["--tune", "balancer.c=0.3,0.5"], "'uniform' has no option 'c'"),
        (["--tune", "seed=5,6"], "tune: seed cannot be tuned: tune_seeds has the seeds"),
        (["--tune", "trainer.monitor=depth/abs,depth/rel"], "trainer.monitor cannot be tuned: the scores"),
        (["trainer.monitor=depth/abss"], "trainer.monitor: no metric is 'depth/abss'"),
        (["trainer.baseline={depth/abss:1}"], "trainer.baseline: no metric is 'depth/abss'"),
        (["data.validation=val,test", "protocol=published"], "data.validation: it is 'val' in .* cannot be compared"),
        (["trainer.selection=best,last"], "trainer.selection: it is 'best' in .* cannot be compared"),
        (["task=[depth],[area,depth]"], "uniform task=.* has the tasks depth, and .* has "),
        (["task.normals.type=normals"], "task.normals: the data set 'lab_pictures' has no such target"),
        (["--split", "test"], "there are no test pictures"),
    ],
)
def test_mistakes_in_the_words_end_it_before_any_run(words, message, capsys, monkeypatch):
    if "--split" in words:
        text = Path("pictures_lab.py").read_text()
        why = 'if split == "test": raise ValueError("there are no test pictures")'
        Path("pictures_lab.py").write_text(text.replace("self.split = split", f"self.split = split\n        {why}"))
    assert main([*WORDS, *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("out").exists()


def test_missing_data_leave_nothing_behind():
    assert main(["compare", "nyuv2", "seed=0", "data.root=nowhere", "output_dir=out"]) == 2
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": ["depth/abss of uniform > 0"]}, "Did you mean 'depth/abs'"),
        ({"claims": ["depth of uniform > 0"]}, "must name one metric of 'depth'"),
        ({"methods": {"a": 3}}, "methods.a: expected overrides in one line.*found 3"),
        ({"methods": {"a": "balancer='uniform"}}, "methods.a: .*No closing quotation"),
        ({"methods": {"a": "trainer.lr=0.1,0.2"}}, "methods.a: trainer.lr=0.1,0.2 is not possible here"),
        ({"methods": {"a": "seed=5"}}, "methods.a: seed=5 is not possible here"),
        ({"methods": None, "claims": []}, "methods: "),
    ],
)
def test_mistakes_in_a_file_end_it_before_any_run(changes, message, capsys):
    study = {"experiment": "lab.yaml", "methods": ["uniform"], "seeds": [0], "baselines": False}
    Path("one.yaml").write_text(yaml.safe_dump(study | changes))
    assert main(["compare", "one.yaml"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("studies").exists()


def test_a_list_of_methods_may_have_options():
    methods = [{"name": "rotograd", "scale_only": True}, "uniform"]
    Path("one.yaml").write_text(yaml.safe_dump({"experiment": "lab.yaml", "methods": methods, "seeds": [0]}))
    plan = Plan(*read_study(Path("one.yaml")))
    found = {job.method.name: job.config.balancer for job in plan.runs(plan.untuned)}
    assert found["rotograd scale_only=true"].options["scale_only"] is True


def test_words_that_runs_that_exist_do_not_need_are_refused(tmp_path, capsys):
    run = str(write_run(tmp_path / "runs" / "a"))
    for words, message in (
        ([run, "--jobs", "2"], "--jobs is about runs that are still to be made"),
        ([run, "--plan"], "--plan is about runs that are still to be made"),
        ([run, "--reference", "x"], "reference: no method is called 'x'"),
        ([run, "--delta-m", "avg=x"], "delta_m: there is no option 'avg'"),
        ([str(tmp_path / "runs" / "seed=9"), run], "seed=9 is no folder"),
        ([str(tmp_path / "runs")], "It holds runs: mtlkit compare .*/runs/\\* compares them"),
    ):
        assert main(["compare", *words]) == 2
        assert re.search(message, capsys.readouterr().err)
    assert not Path("studies").exists()


# -- figures ----------------------------------------------------------------------------------------------------------


def test_gains_are_over_the_seeds_that_are_whole(tmp_path):
    found = [one for one in entries(tmp_path) if (one.method, one.task, one.seed) != (SINGLE, "depth", 2)]
    study = Comparison([read_outcome(entry) for entry in found])
    result = delta(study, "uniform")
    assert list(result.by_seed) == [0, 1]
    assert "of 2 runs" in result.definition
    assert gains(study, "uniform")["area"].n == 3  # area has all its runs
    keys, value = FIGURES["uniform"], lambda row, key, s: FIGURES[row][key][0] + s * FIGURES[row][key][1]
    sign = {"area/miou": 1}
    each = {
        key: np.mean([
            sign.get(key, -1) * 100 * (value("uniform", key, s) / value(SINGLE, key, s) - 1) for s in (0, 1)
        ])
        for key in keys
    }  # fmt: skip
    by_hand = ((each["depth/abs"] + each["depth/rel"]) / 2 + each["area/miou"]) / 2
    assert result.value == pytest.approx(by_hand)


def test_a_task_without_single_task_runs_does_not_make_them_look_cheap(tmp_path):
    found = [one for one in entries(tmp_path) if one.task != "depth"]
    study = Comparison([read_outcome(entry) for entry in found])
    assert step_time(study, SINGLE) is None
    assert "No Δm of uniform" in " ".join(notes(study)["How to read the numbers"])


def test_below_three_seeds_there_is_no_critical_difference(tmp_path):
    assert ranks(compare(tmp_path / "two", seeds=(0, 1))).critical is None
    found = ranks(compare(tmp_path / "three"))
    assert found.critical == pytest.approx(stats.studentized_range.ppf(0.95, 2, np.inf) / 2**0.5 * (1 / 6) ** 0.5)


def test_the_cost_of_single_task_training_is_explained(tmp_path):
    text = " ".join(notes(compare(tmp_path))["How to read the numbers"])
    assert "Step time and memory of single-task: the sum of the step times over tasks" in text


def test_settings_of_training_that_differ_between_runs_are_said(tmp_path):
    found = [entry.run for entry in entries(tmp_path, seeds=(0,))]
    config = found[0] / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.5"))
    said = list(remarks(compare_runs(found)))
    name = read_outcome(entries(tmp_path / "again", seeds=(0,))[0]).entry.task
    assert any(one.startswith("Not equal for all: trainer.lr. 0.5: single-task of " + name) for one in said)


# -- tuning and several calls -----------------------------------------------------------------------------------------


def test_settings_of_single_task_runs_name_no_balancer():
    plan = Plan(*study_of("lab.yaml", ["balancer=cagrad", "trainer.lr=0.1,0.2", "seed=0"]))
    found = {job.entry.settings for job in plan.runs(plan.untuned) if job.method.task}
    assert found == {"trainer.lr=0.1", "trainer.lr=0.2"}


def test_a_method_whose_trials_have_not_ended_waits(tmp_path):
    study, folder = study_of("lab.yaml", ["balancer=uniform,cagrad", "seed=0"], tune=("trainer.lr=0.1,0.2",))
    plan = Plan(replace(study, baselines=False), folder)
    for place, job in enumerate(plan.trials):
        write_run(job.folder, seed=1000, steps=4 * (place + 1))
    stopped = plan.trials[0]
    text = (stopped.folder / "metrics.jsonl").read_text()
    (stopped.folder / "metrics.jsonl").write_text(text.replace('"finished"', '"diverged"'))
    trials, chosen, waiting = choose(plan.trials, {stopped.folder})
    assert (chosen["uniform"], waiting) == (("trainer.lr=0.2",), [])  # what diverged has come to its end
    (stopped.folder / "metrics.jsonl").write_text(text.replace('"status": "finished", ', ""))
    trials, chosen, waiting = choose(plan.trials, {stopped.folder})
    assert (set(chosen), waiting, len(trials)) == ({"cagrad"}, ["uniform"], 4)


def test_the_reference_may_fail_in_tuning_already(capsys):
    words = ["compare", "lab.yaml", "balancer=falls,uniform", "seed=0", "--no-baselines", "output_dir=out"]
    assert main([*words, "--reference", "falls", "--tune", "trainer.lr=0.01,0.02"]) == 2
    assert "No run of the reference falls finished" in Path("out/table.md").read_text()


def test_step_times_remember_how_many_runs_shared_the_machine(capsys):
    study, folder = study_of("lab.yaml", ["seed=0", "output_dir=out"], baselines=False)
    found = run_study(study, folder, Here(), print)
    assert found.context.at_a_time == 1
    kept = json.loads((folder / SHARED).read_text())
    (folder / SHARED).write_text(json.dumps(dict.fromkeys(kept, 4)))
    assert run_study(study, folder, Here(), print).context.at_a_time == 4  # nothing was measured in this call
    both = run_study(replace(study, seeds=(0, 1)), folder, Here(), print)
    assert any("1 or 4 runs at a time shared the machine" in note for note in both.context.notes)
    assert Carried(Here(), print, folder).shared[folder / "runs/uniform,seed=0"] == 4


def test_a_word_may_remove_a_task():
    assert main(["compare", "lab.yaml", "~task.area", "seed=0", "trainer.max_steps=2", "output_dir=out"]) == 0
    assert "| uniform |" in Path("out/table.md").read_text()
