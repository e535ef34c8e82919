"""The parser of the command line: argparse's, with messages that say what to write."""

import argparse
import difflib
import functools
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from mtlkit.cli.experiments import experiments
from mtlkit.cli.help import EXAMPLES, examples, whole
from mtlkit.config.keys import meant, schema_keys
from mtlkit.plain_text import plain, short
from mtlkit.registry import suggest

WIDTH = 100  #: of the help, in columns
FORM = functools.partial(argparse.RawDescriptionHelpFormatter, width=WIDTH)
REQUIRED = "the following arguments are required: "  #: argparse's words for missing arguments


class Parser(argparse.ArgumentParser):
    """A parser of a command or a subcommand. For a mistake, it prints one message on stderr and exits with status 2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.flags: list[str] = []
        self.commands: dict[str, str] = {}  #: what the commands below this one do
        self.helps: dict[str, str] = {}  #: the help of required arguments, by the names in argparse's messages
        super().__init__(*args, **options)

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        action = super().add_argument(*args, **options)
        self.flags += action.option_strings
        if action.nargs != "*":  # which argparse calls required, too
            self.helps["/".join(action.option_strings) or str(action.metavar or action.dest)] = action.help or ""
        return action

    def add_command(self, commands: Any, name: str, text: str) -> "Parser":
        """Returns a parser below this one. `commands` is the result of `add_subparsers`."""
        self.helps["COMMAND"] = ", ".join([*commands.choices, name])
        self.commands[name] = text
        path = f"{self.prog} {name}".removeprefix("mtlkit ")
        options: dict[str, Any] = {"epilog": examples(path), "formatter_class": FORM, "allow_abbrev": False}
        options["description"] = textwrap.fill(text, WIDTH)  # `FORM` leaves lines as they are, for the examples
        return cast("Parser", commands.add_parser(name, help=text, **options))

    def format_help(self) -> str:
        return super().format_help() if " " in self.prog else whole(self.commands)

    def error(self, message: str) -> NoReturn:
        if message.startswith(REQUIRED):
            missing = message.removeprefix(REQUIRED).split(", ")
            message = "; ".join(f"{name} is missing: {self.helps[name]}" for name in missing if name in self.helps)
            message += "".join(f".\nFor example: {line}" for line in EXAMPLES.get(self.prog.partition(" ")[2], ())[:1])
            if "EXPERIMENT" in missing:
                message += f"\nExperiments: {', '.join(experiments())}."
        elif found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            known = [name.strip(" '") for name in found[2].split(",")]
            message = f"there is no {found[1]!r} here. {suggest(found[1], known)}"
        self.exit(2, f"{self.prog}: error: {short(message, 4000)}\n{self.prog} --help says more.\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(status, message and plain(message))  # a shell may have put a file's name among the words

    def refuse(self, unknown: Sequence[str], words: Sequence[str], settings: bool) -> NoReturn:
        """Prints an error for unknown words and exits. `settings` says whether the command takes key=value."""
        self.error(" ".join(self._advice(word, words, settings) for word in unknown))

    def _advice(self, word: str, words: Sequence[str], settings: bool) -> str:
        problem = f"there is no {word} here"
        if close := difflib.get_close_matches(word.partition("=")[0], self.flags, n=1, cutoff=0.8):
            return f"{problem}; did you mean {close[0]}?"
        if not settings:
            return f"{problem}; {self.prog} takes no key=value." if "=" in word else f"{problem}."
        name, _, value = word.lstrip("-").partition("=")
        following = words[words.index(word) + 1 :][:1]
        value = value or next((word for word in following if not word.startswith("-") and "=" not in word), "VALUE")
        example = next((f": {key}={value}" for key in meant(name, schema_keys())), ", such as trainer.lr=0.1")
        return f"{problem}; settings are written key=value, without dashes{example}."
