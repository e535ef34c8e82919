"""Mutated command lines: each is carried out as typed, or refused with status 2 and one message."""

import contextlib
import io
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from study_lab import write_lab

from mtlkit.cli.main import main
from mtlkit.config.schema import Config
from trust.configurations import HOSTILE
from trust.result import MESSAGE, HangsError, Result, guarded

SETTINGS = (
    *("seed=1", "output_dir=other", "balancer=rotograd", "balancer=cagrad", "balancer.c=0.5", "data.batch_size=4"),
    *("data.size=[64,48]", "data.workers=0", "data.root=lab", "data.augmentation.flip=0.5", "trainer.lr=1e-2"),
    *("trainer.max_steps=3", "trainer.precision=bf16", "trainer.schedule=cosine", "trainer.trackers=[wandb]",
    "task=[depth]"),
    *("trainer.optimizer=adamw", "trainer.optimizer_options={betas:[0.9,0.95]}", "model.encoder=lenet",
    "model=segnet"),
    *("model.freeze=true", "~task.depth", "+task=[depth]", "++trainer.lr=0.1", "preset=nash_mtl",
    "plugins=[pictures_lab]"),
    *("task.depth.decoder=linear", "task.depth.loss=l1", "model.lora.rank=4", "trainer.baseline={area/miou:0.5}",
    "protocol=published"),
)  # fmt: skip
LINES = (
    *(("train", "lab.yaml", *SETTINGS[:1]), ("train", "scenes"), ("train", "lab.yaml", "--resume"), ("train",
    "run/config.yaml")),
    *(("train", "lab.yaml", "seed=0,1", "-m"), ("train", "lab.yaml", "--resume-from", "best"), ("train", "celeba",
    "--trust-plugins")),
    *(("evaluate", "run", "--split", "val"), ("evaluate", "run", "--json", "data.batch_size=2"), ("explain", "run")),
    *(("predict", "run", "a.png", "--out", "predictions"), ("predict", "run", "a.png", "--out", "p", "--batch",
    "2", "--tasks", "depth")),
    *(("report", "run"), ("export", "run", "--encoder", "e.safetensors"), ("export", "run", "--format", "pt2",
    "--out", "m.pt2")),
    *(("data", "show", "lab.yaml", "--samples", "2"), ("data", "prepare", "lab.yaml", "--out", "prepared",
    "--splits", "val")),
    *(("list", "balancers"), ("list", "presets", "--markdown"), ("push", "run", "me/model", "--private",
    "--licence", "mit")),
    *(("compare", "lab.yaml", "balancer=uniform,cagrad", "seed=0,1", "--plan"), ("compare", "run", "run",
    "output_dir=c")),
    *(("compare", "lab.yaml", "balancer=uniform,cagrad", "--tune", "trainer.lr=0.1,0.01", "--tune-seeds", "7",
    "--delta-m", "average=tasks")),
)  # fmt: skip
ODD = ("--help", "--version", "--", "-", "", "=", "a=", "=a", "--resume=1", "-mx", "é", "\udcff", "\x1b[2J", "x" * 5000,
       "[", "{a:", "a=[1,", "a='", "$(b)",
       "/", "/dev/null", "run", "nothing.yaml", "a.png", "--out", "--batch", "-1", "seed", "hydra.run.dir=x",
       "experiment=demo", "@x=1", "a@b=1", "a=1,2",
       "a=glob(*)", "seed=range(1,3)", "seed=choice(1,2)", "seed=int('1')", "seed=shuffle(1,2)", "trainer=null",
       "task=null", "data=1", "~seed", "~x.y.z")  # fmt: skip


class Composed(BaseException):
    """Stops `train` where it would begin to work."""

    def __init__(self, config: Config) -> None:
        self.config = config


def run(folder: Path, seed: int, count: int) -> Result:
    """Mutates `count` command lines and calls the command in this process, in `folder`."""
    result = Result()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), stopped_before_work():
        _prepare()
        for number in range(count):
            words = mutated(random.Random(f"{seed} {number}"))
            try:
                with guarded():
                    outcome, wrong = _look(words)
            except HangsError as error:
                outcome, wrong = "", str(error)
            if wrong:
                result.fault(f"mtlkit {' '.join(word[:200] for word in words)!a}: {wrong}")
            else:
                result.outcomes[outcome] += 1
    return result


@contextlib.contextmanager
def stopped_before_work() -> Iterator[None]:
    """Training and studies stop when they begin, and nothing goes to the hub."""

    def begin(experiment: Any, **_: Any) -> NoReturn:
        raise Composed(experiment.config)

    def bring(config: Config, *_: Any) -> NoReturn:
        raise Composed(config)

    def study(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    with (
        mock.patch("mtlkit.run.experiment.Experiment.run", begin),
        mock.patch("mtlkit.run.progress.bring_to_end", bring),
        mock.patch("mtlkit.study.conduct.run_study", study),
        mock.patch("mtlkit.study.estimate.estimate", study),
        mock.patch("mtlkit.run.hub.push_run", study),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
    ):
        yield


def _prepare() -> None:
    """Writes an experiment, a picture and a finished run."""
    import sys

    from mtlkit.config.composition import compose
    from mtlkit.run.experiment import Experiment

    sys.path.insert(0, os.getcwd())
    write_lab(Path())
    Image.new("RGB", (32, 32)).save("a.png")
    begin, Experiment.run = Experiment.run, TRUE_RUN
    try:
        Experiment(compose("lab.yaml", ["output_dir=run", "trainer.max_steps=2", "balancer=cagrad"])).run()
    finally:
        Experiment.run = begin


def _true_run() -> Any:
    from mtlkit.run.experiment import Experiment

    return Experiment.run


TRUE_RUN = _true_run()


def _look(words: list[str]) -> tuple[str, str]:
    """Returns what the command did, and what is wrong with that."""
    out, err, found = io.StringIO(), io.StringIO(), None
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except Composed as stop:
        found, status = stop.config, 0
    except SystemExit as ended:  # argparse
        status = int(ended.code or 0)
    except Exception as error:  # noqa: BLE001 (no error may leave the command)
        return "", f"a traceback: {type(error).__name__}: {str(error)[:300]}"
    said = err.getvalue()
    if status == 130:  # it came as far as the work that is left out here
        return "begun", ""
    if status not in (0, 2) or "Traceback" in said:
        return "", f"status {status}: {said[-300:]}"
    if status == 2 and not re.search(r"^mtlkit[^:]*: ", said, re.MULTILINE):
        return "", f"status 2 without a message: {said[:300]!r}"
    if len(said) > MESSAGE:
        return "", f"a message of {len(said)} characters: {said[:200]}"
    if odd := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", said):
        return "", f"its message has the character {odd[0]!a}"
    if found is None:
        return "refused" if status else "done", ""
    return "composed as typed", next(unlike(words, found), "")


def unlike(words: list[str], config: Config) -> Iterator[str]:
    """Yields the words whose value is another in the configuration. The last word for a key counts."""
    values, parser = config.to_dict(), OverridesParser.create()
    typed = [word for word in words[2:] if "=" in word and word[0].isalpha()]
    gone = tuple(word[1:] for word in words if word.startswith("~"))
    last = {key: word for word in typed if not (key := word.partition("=")[0]).startswith(gone)}
    for key, word in last.items():
        parsed, place, text = (
            parser.parse_override(word) if _parses(parser, word) else None,
            values,
            word.partition("=")[2],
        )
        for part in key.split("."):
            place = place.get(part, "absent") if isinstance(place, dict) else "absent"
        if (
            parsed is None
            or parsed.is_sweep_override()
            or isinstance(place, dict)
            or "${" in text
            or key in ("output_dir", "plugins", "preset")
        ):
            continue
        if place != parsed.value() and place != text and str(place) != text:
            yield f"{word!r:.100} was typed, and {key} is {place!r:.100}"


def _parses(parser: OverridesParser, word: str) -> bool:
    try:
        parser.parse_override(word)
    except Exception:  # noqa: BLE001 (a path, which mtlkit takes as it was typed)
        return False
    return True


def mutated(draw: random.Random) -> list[str]:
    """Returns one of the known command lines with further settings and one to four mutations."""
    words = [*draw.choice(LINES)]
    if words[0] in ("train", "compare") or words[:1] == ["data"]:
        at = 3 if words[0] == "data" else 2
        words[at:at] = draw.sample(SETTINGS, draw.randrange(4))
    for _ in range(draw.choice([0, 1, 1, 1, 2, 4])):
        at = draw.randrange(len(words))
        draw.choice(WAYS)(words, at, draw)
    return words


def lost(words: list[str], at: int, draw: random.Random) -> None:
    if len(words) > 1:
        del words[at]


def odd_word(words: list[str], at: int, draw: random.Random) -> None:
    words.insert(at + draw.randrange(2), draw.choice(ODD))


def other_value(words: list[str], at: int, draw: random.Random) -> None:
    key, equals, _ = words[at].partition("=")
    value = str(draw.choice(HOSTILE))
    words[at] = f"{key}={value}" if equals else f"{draw.choice(SETTINGS).partition('=')[0]}={value}"


def misspelt(words: list[str], at: int, draw: random.Random) -> None:
    word = words[at] or "x"
    i = draw.randrange(len(word))
    words[at] = draw.choice(
        [word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word.upper(), f"-{word}", f"--{word}", f" {word}"]
    )


def exchanged(words: list[str], at: int, draw: random.Random) -> None:
    other = draw.randrange(len(words))
    words[at], words[other] = words[other], words[at]


def twice(words: list[str], at: int, draw: random.Random) -> None:
    words.insert(at, words[at])


WAYS = (lost, odd_word, other_value, other_value, misspelt, misspelt, exchanged, twice)
