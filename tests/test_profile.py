"""`trainer.profile`: a trace of some steps, in which the parts have names."""

import json

import pytest
import torch

from mtlkit.engine.parts import part
from mtlkit.observer import Observer
from mtlkit.run.profile import Profile


class Notes(Observer):
    def __init__(self):
        self.found = []

    def note(self, record):
        self.found.append(record)


def train(toys, run, *, steps, profile=True, eval_every=100):
    engine = toys.make_engine("gradnorm", steps=steps, profile=profile, eval_every=eval_every)
    engine.observer = notes = Notes()
    with Profile(engine, run) as traced:
        batches = traced.batches(iter(toys.make_batch, None))
        engine.fit(batches, lambda: {"loss/depth": 1.0}, lambda best: None, traced.stop(lambda step, due: None))
    return [record for record in notes.found if not record.get("incident", "").startswith("No")]


def counts(run):
    events = json.loads((run / "profile.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize(
    ("steps", "eval_every", "first", "last"), [(8, 100, 4, 6), (8, 4, 4, 4), (2, 100, 2, 2), (1, 1, 1, 1)]
)
def test_the_trace_has_some_steps_after_the_first_ones_and_no_evaluation(
    toys, tmp_path, steps, eval_every, first, last
):
    (note,) = train(toys, tmp_path, steps=steps, eval_every=eval_every)
    assert note["profile"] == f"profile.json has the steps {first} to {last}, which took longer for it"
    found, traced = counts(tmp_path), last - first + 1
    assert {name: found[name] for name in ("encoder", "backward", "optimizer")} == dict.fromkeys(
        ("encoder", "backward", "optimizer"), traced
    )
    assert found["tap"] == 2 * traced  # forward, and where the gradients meet
    assert all(found[f"head/{task}"] == traced for task in toys.TASK_NAMES)
    assert found["balancer"] >= 3 * traced
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]  # nothing under a temporary name


def test_without_the_key_there_is_no_trace_and_no_name_is_recorded(toys, tmp_path, monkeypatch):
    names, own = [], torch.autograd.profiler.record_function
    monkeypatch.setattr("torch.autograd.profiler.record_function", lambda name: (names.append(name), own(name))[1])
    assert train(toys, tmp_path, steps=2, profile=False) == []
    assert list(tmp_path.iterdir()) == []
    with part("anything"):
        pass
    assert {name for name in names if not name.startswith("Optimizer.")} == set()  # torch itself names its optimizers


def test_a_run_that_ends_before_says_so(toys, tmp_path):
    engine = toys.make_engine(steps=8, profile=True)
    engine.observer = notes = Notes()
    with Profile(engine, tmp_path):
        pass
    assert "ended before a step was traced" in notes.found[0]["incident"]
