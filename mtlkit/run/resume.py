"""The configuration of a run that goes on or is evaluated: the old configuration with the allowed changes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from warnings import warn

from mtlkit.config.checks import check_config
from mtlkit.config.composition import compose, read_config
from mtlkit.config.overrides import keys_of
from mtlkit.config.presets import preset_keys
from mtlkit.config.schema import Config
from mtlkit.run_folder import CONFIG
from mtlkit.typed import Source

#: Settings that do not affect steps already taken. If a longer run has a schedule, it continues on the longer schedule.
MAY_CHANGE = frozenset(
    {
        "output_dir",
        "data.root",
        "data.concat.*.root",
        "data.workers",
        "data.eval_batch_size",
        "model.checkpointing",
        "model.channels_last",
        "trainer.compile",
        "trainer.max_steps",
        "trainer.max_epochs",
        "trainer.log_every",
        "trainer.profile",
        "trainer.eval_every",
        "trainer.eval_every_epochs",
        "trainer.save_every",
        "trainer.early_stopping",
        "trainer.trackers",
        "trainer.observers",
    }
)


def resumed(config: Config, words: Sequence[str] | None = None, *, anew: bool = False) -> Config:
    """Returns the configuration of the run in `config.output_dir`, with the allowed changes from `config`.

    Args:
        config: the configuration that the user asks for now.
        words: the overrides that `config` was composed from. Only the keys in them can differ. None: all keys can.
        anew: the run has no finished step, so every setting may change, not only those of `MAY_CHANGE`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: a setting differs that would make it another run.
    """
    folder = Path(config.output_dir)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"There is no run in {folder} to resume: it has no {CONFIG}.")
    named = None if words is None else keys_of(words)
    if anew and named is not None and config.preset and named & {"preset", "balancer", "balancer.name"}:
        named |= {"preset.name", "preset.method", *preset_keys(config)}
    advice = "A resumed run goes on as it began; another output_dir starts a new one."
    return _changed(folder, config, named, ("*",) if anew else MAY_CHANGE, advice)


def evaluated(run: Path, words: Sequence[str] = ()) -> Config:
    """Returns the configuration of a run with the changes that `words` make: only keys of `MAY_CHANGE`.

    It warns if the figures do not depend on a key. Raises `ValueError` for any other key, and the errors of `compose`.
    """
    if not words:
        return read_config(run / CONFIG)
    config = compose(str(run / CONFIG), words)
    named, allowed = keys_of(words), f"An evaluation may change {', '.join(sorted(MAY_CHANGE))}."
    config = _changed(run, config, named, MAY_CHANGE, allowed)
    for key in sorted(named):
        if not key.startswith(("data.", "plugins")):  # naming a module lets a run's own file name it, too
            warn(f"{key} has no effect on an evaluation.", stacklevel=2)
    return config


def _changed(folder: Path, config: Config, named: set[str] | None, may_change: Collection[str], advice: str) -> Config:
    """Returns the configuration of the run in `folder` with the values that `config` has for the named keys."""
    old, new = (dict(flat(c.to_dict())) for c in (read_config(folder / CONFIG), config))
    exchanged: set[str] = set()  # sections that now name another class; all their options belong to that class
    # Keys that choose a class come first, because the other differences follow from them.
    for key in sorted(old.keys() | new.keys(), key=lambda key: (not key.endswith((".name", ".encoder", ".type")), key)):
        in_one_only, section = (key in old) != (key in new), key.rpartition(".")[0]
        if old.get(key) == new.get(key) or not (section in exchanged or _names(named, key, in_one_only)):
            continue
        if not any(fnmatchcase(key, pattern) for pattern in may_change):
            raise ValueError(f"{key}: the run in {folder} has {old.get(key)!r}, not {new.get(key)!r}. {advice}")
        if key == "balancer.name" or key.endswith(".type"):
            exchanged.add(section)
        if key in new:
            old[key] = new[key]
        else:
            del old[key]
    return check_config(_nested(old), Source(str(folder / CONFIG)))


def _names(named: set[str] | None, key: str, in_one_only: bool) -> bool:
    """Returns whether the words name the key, a mapping around it, or a group, which sets a name and its keys."""
    if named is None:
        return True
    section, _, name = key.partition(".")
    return any(key == n or (key.startswith(f"{n}.") and "." in n) for n in named) or (
        section in named and (in_one_only or name in ("name", "encoder"))
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves by dotted key. A set of `data.concat` is a section named by its number, as in an override."""
    for key, value in values.items():
        if f"{prefix}{key}" == "data.concat" and value:
            value = {str(number): part for number, part in enumerate(value)}
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    if sets := result["data"].get("concat"):
        result["data"]["concat"] = [sets[number] for number in sorted(sets, key=int)]
    return result
