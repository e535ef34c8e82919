"""The methods of a study: their names, the words that make them, and what single-task training is for them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtlkit.config.checks import check_config
from mtlkit.config.overrides import parse_words
from mtlkit.config.schema import Config
from mtlkit.study.outcome import SINGLE
from mtlkit.task import TASKS
from mtlkit.typed import Source

STATIC = "static weights"  #: the method whose trials are fixed weightings


@dataclass(frozen=True)
class Method:
    """A method: its name, the words that all its runs have, and the words of each setting that tuning tries.

    Attributes:
        task: the only task, if this is single-task training.
        base: the name of the single-task method that it is compared with.
    """

    name: str
    words: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...] = ((),)
    task: str = ""
    base: str = SINGLE

    @property
    def label(self) -> str:
        """The name with the task, by which messages and folders tell the runs of single-task training apart."""
        return f"{self.name} {self.task}" if self.task else self.name


def name_of(words: Sequence[str]) -> str:
    """Returns the name of a method from its words: the balancer with its options, and other keys as they are written.

    >>> name_of(["trainer.lr=0.1", "balancer={name:rotograd,scale_only:true}"])
    'rotograd scale_only=true trainer.lr=0.1'
    >>> name_of(["balancer=gradnorm", "balancer.space=features"])
    'gradnorm space=features'
    """
    name, options, others = [], [], []
    for word in parse_words(words):
        value = word.value() if word.key_or_group == "balancer" else None
        if isinstance(value, Mapping):
            name += [str(value.get("name"))]
            options += [f"{key}={written(item)}" for key, item in value.items() if key != "name"]
        elif value is not None:
            name += [str(value)]
        elif word.key_or_group.startswith("balancer."):
            options += [str(word.input_line).removeprefix("balancer.")]
        else:
            others += [str(word.input_line)]
    return " ".join([*name, *options, *others])


def written(value: Any) -> str:
    """Writes a value as an override has it.

    >>> written({"name": "fixed", "weights": {"a": 1, "b": 0.5}, "slow": True})
    '{name:fixed,weights:{a:1,b:0.5},slow:true}'
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def balancer_word(values: Mapping[str, Any]) -> str:
    """Returns the word that chooses a balancer with its options.

    >>> balancer_word({"name": "rotograd", "scale_only": True})
    'balancer={name:rotograd,scale_only:true}'
    """
    return f"balancer={written(values)}"


def chooses_balancer(word: str) -> bool:
    """Returns whether a word chooses the balancer or sets one of its options."""
    return word.lstrip("+").partition("=")[0].partition(".")[0] in ("balancer", "preset")


def base_of(line: str) -> str:
    """Returns the name of the single-task training that belongs to a method, from the method's overrides in one line.

    Single-task training has the settings of the method, except for the balancer.

    >>> base_of("balancer=rotograd"), base_of("balancer=rotograd trainer.lr=0.1")
    ('single-task', 'single-task trainer.lr=0.1')
    """
    others = [word for word in shlex.split(line) if not chooses_balancer(word)]
    return f"{SINGLE} {name_of(others)}" if others else SINGLE


def static_name(base: str) -> str:
    """Returns the name of the best fixed weighting that is compared with these single-task runs.

    >>> static_name("single-task trainer.lr=0.1")
    'static weights trainer.lr=0.1'
    """
    return f"{STATIC}{base.removeprefix(SINGLE)}"


def single_task(config: Config, task: str) -> Config:
    """Returns the configuration of single-task training: one task of a configuration, with everything else the same.

    Plain summing of one loss is single-task training. If `trainer.monitor` names a metric of another task, this task's
    own loss selects the best evaluation instead. The log says what did.
    """
    values = config.to_dict()
    values["task"] = {task: values["task"][task]}
    values["balancer"], values["preset"] = {"name": "uniform"}, None
    trainer = values["trainer"]
    of, _, metric = (trainer["monitor"] or "").partition("/")
    if of and of != task and not (of == "*" and _has_metric(config, task, metric)):
        trainer["monitor"] = None
    baseline = {key: value for key, value in (trainer["baseline"] or {}).items() if key.partition("/")[0] == task}
    trainer["baseline"] = baseline or None
    return check_config(values, Source(f"single-task training of {task}"))


def _has_metric(config: Config, task: str, metric: str) -> bool:
    cls = TASKS.get(config.task[task].type)
    return metric in cls(task, ("a", "b") if cls.named else ()).metrics()


def weightings(tasks: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Returns the words of `count` fixed weightings. Equal weights come first, and the others are drawn at random.

    They are drawn evenly from all weights with a sum of K, the number of tasks, by a generator of a fixed seed. So
    every study tries the same ones.

    >>> weightings(["a", "b"], 2)
    [('balancer={name:fixed,weights:{a:1,b:1}}',), ('balancer={name:fixed,weights:{a:0.80014,b:1.1999}}',)]
    """
    drawn = np.random.default_rng(0).dirichlet(np.ones(len(tasks)), count - 1) * len(tasks)
    rows = [[1.0] * len(tasks), *drawn.tolist()]
    texts = [",".join(f"{task}:{weight:.5g}" for task, weight in zip(tasks, row, strict=True)) for row in rows]
    return [(f"balancer={{name:fixed,weights:{{{text}}}}}",) for text in texts]


def with_candidates(method: Method, grid: Sequence[Sequence[str]]) -> Method:
    """Returns the method with every setting of the grid on top of each of its own candidates."""
    return replace(method, candidates=tuple((*own, *words) for own in method.candidates for words in grid))
