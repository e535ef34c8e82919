"""The command `mtlkit completion`, and the candidates when a user presses TAB.

The package `argcomplete` talks to the shells. An answer must come at once, so this module imports neither torch nor a
plug-in: `mtlkit.config.names` finds the registered names in the text of the files.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mtlkit.cli.experiments import experiments, file_names, presets, studies
from mtlkit.cli.output import print_lines
from mtlkit.config.keys import schema_keys, text_keys, words_of_keys
from mtlkit.config.names import option_names, registered

SHELLS = ("bash", "zsh", "fish")
GROUPS = ("balancer", "data", "model", "task", "preset")
#: The keys of which each takes the name of a class: the registries' variables, and folders of configs/.
CHOICES = {
    "balancer": ("BALANCERS", ""),
    "balancer.name": ("BALANCERS", ""),
    "data": ("DATASETS", "data"),
    "data.name": ("DATASETS", ""),
    "model": ("ENCODERS", "model"),
    "model.encoder": ("ENCODERS", ""),
    "encoder": ("ENCODERS", ""),
    "decoder": ("DECODERS", ""),
    "task": ("TASKS", "task"),
}


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds `completion`. `add(name, command, text)` returns its parser."""
    sub = add("completion", completion_command, "Print the script by which a shell completes the words of mtlkit.")
    sub.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def completion_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints the script."""
    import argcomplete

    print_lines(argcomplete.shellcode(["mtlkit"], shell=arguments.shell).strip("\n").splitlines())


def asked() -> bool:
    """Returns whether a shell has started this process to get candidates."""
    return "_ARGCOMPLETE" in os.environ


def complete(parser: argparse.ArgumentParser) -> None:
    """Prints the candidates for the word at the cursor, and ends the process."""
    import argcomplete

    for action in _actions(parser):
        if action.dest in CANDIDATES:
            action.completer = CANDIDATES[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        for below in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from _actions(below)


def candidates(prefix: str, given: Iterable[str] = ()) -> list[str]:
    """Returns what can stand for a word `key=value` that begins with the prefix, after the words that are there.

    >>> candidates("balancer=pc"), candidates("trainer.warm"), candidates("trainer.precision=fp16,b")
    (['balancer=pcgrad'], ['trainer.warmup_steps='], ['trainer.precision=fp16,bf16'])
    """
    key, equals, value = prefix.partition("=")
    if not equals:
        chosen = [f"{key}=" for key in (*schema_keys(), *_options(given))]
        return sorted(word for word in dict.fromkeys(chosen) if word.startswith(prefix))
    before, comma, last = value.rpartition(",")  # of a sweep
    return [f"{key}={before}{comma}{found}" for found in _values(key.lstrip("+"), last) if found.startswith(last)]


def _values(key: str, begun: str) -> list[str]:
    if key in CHOICES:
        registry, group = CHOICES[key]
        return sorted({*registered(registry), *(file_names(group) if group else ())})
    if key == "preset":
        return list(presets())
    if key in text_keys():
        return _folders(begun)
    return words_of_keys().get(key, [])


def _options(given: Iterable[str]) -> Iterator[str]:
    """Yields the options of the classes that the given words name."""
    for word in given:
        key, _, name = word.partition("=")
        if key in ("balancer", "data", "model"):
            yield from (f"{key}.{option}" for option in option_names(CHOICES[key][0], name))


def _folders(begun: str) -> list[str]:
    path = Path(begun).expanduser()
    folder = path if begun.endswith("/") else path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # no such folder, or it cannot be read: there are no candidates
        return []
    start = begun[: begun.rfind("/") + 1]
    return [f"{start}{name}/" for name in names]


def _words(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return candidates(prefix, getattr(parsed_args, "overrides", None) or ())


def _experiments(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    found = [*experiments(), *(studies() if parsed_args.command.__name__ == "compare_command" else ())]
    return [*found, *_paths(prefix, ".yaml")]


def _runs(prefix: str, **_: Any) -> list[str]:
    return _paths(prefix, "")


def _paths(prefix: str, ending: str) -> list[str]:
    """Returns folders, and files with that ending."""
    folder = Path(prefix) if prefix.endswith("/") else Path(prefix).parent
    start = prefix[: prefix.rfind("/") + 1]
    files = sorted(folder.glob(f"*{ending}")) if ending else []
    return [*_folders(prefix), *(f"{start}{file.name}" for file in files if file.is_file())]


def _what(prefix: str, **_: Any) -> list[str]:
    groups = sorted({*CHOICES, *GROUPS} - {"balancer.name", "data.name", "model.encoder"})
    if "=" in prefix:
        return candidates(prefix)
    return sorted({*groups, *(f"{group}=" for group in groups), *schema_keys()})


#: The functions that find candidates, by the names of arguments.
CANDIDATES: dict[str, Callable[..., list[str]]] = {
    "overrides": _words,
    "experiment": _experiments,
    "run": _runs,
    "what": _what,
}
