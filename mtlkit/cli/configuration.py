"""The commands about the configuration, which train nothing: `describe`, `schema`, and `train --cfg`."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mtlkit.cli.output import print_lines

SCHEMAS = ("experiment", "preset")


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds `describe` and `schema`. `add(name, command, text)` returns the parser of a command."""
    sub = add("describe", describe_command, "Say what a key, a section or a name of the configuration means.")
    what = "a key (trainer.lr), a section (trainer, balancer), or a name of a group (balancer=rotograd)"
    sub.add_argument("what", metavar="WHAT", help=what)
    _add_plugins(sub)
    sub = add("schema", schema_command, "Print the JSON schema of the configuration, for editors.")
    sub.add_argument(
        "file", metavar="FILE", nargs="?", default="experiment", choices=SCHEMAS, help=" or ".join(SCHEMAS)
    )
    _add_plugins(sub)


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    text = "import these modules first, so that their names are known"
    parser.add_argument("--plugins", metavar="A,B", type=lambda words: words.split(","), default=[], help=text)


def describe_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints the type, the default and the meaning of keys."""
    from mtlkit.cli.describe import describe

    _import(arguments.plugins)
    print_lines(describe(arguments.what))


def schema_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints a JSON schema."""
    from mtlkit.config.json_schema import experiment_schema, preset_schema

    _import(arguments.plugins)
    schema = preset_schema() if arguments.file == "preset" else experiment_schema()
    print_lines([json.dumps(schema, ensure_ascii=False)])


def print_configuration(experiment: str, overrides: Sequence[str]) -> None:
    """Prints the resolved configuration of a run as YAML. A comment on each line says where its value came from."""
    from mtlkit.config.composition import compose_with_sources
    from mtlkit.config.shown import shown

    composed = compose_with_sources(experiment, overrides)
    command = " ".join(shlex.join(["mtlkit", *sys.argv[1:]]).split())  # one line, whatever characters it has
    trust = ["# It names plug-ins: mtlkit train FILE --trust-plugins."] if composed.config.plugins else []
    print_lines([f"# {command}", *trust, *shown(composed)])


def _import(plugins: list[str]) -> None:
    from mtlkit.config.plugins import import_plugins
    from mtlkit.typed import Source

    import_plugins(plugins, Source("--plugins"))
