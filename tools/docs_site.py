"""The hook of the documentation site: pages of the reference, mathematics, and links to pages outside of docs/.

`make site` calls it through mkdocs.yml. The pages are made from the classes and from the command line, so that they
cannot differ from them.
"""

import contextlib
import html
import inspect
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

import mtlkit
from mtlkit.cli import catalog, experiments
from mtlkit.cli.main import main
from mtlkit.config.presets import load_preset
from mtlkit.config.reference import NONE, Key, keys_below, keys_of, option_keys
from mtlkit.config.schema import Config, DecoderConfig, TaskConfig
from mtlkit.config.shown import yaml_text
from mtlkit.typed_words import annotation_in_words

ROOT = Path(__file__).parents[1]
ABOVE = {"CONTRIBUTING.md": "Contribute", "CHANGELOG.md": "Changes", "SECURITY.md": "Security"}
KINDS = {
    "balancers": "Balancers",
    "tasks": "Tasks",
    "kinds": "Kinds of target",
    "datasets": "Data sets",
    "encoders": "Encoders",
    "decoders": "Decoders",
}
API = {
    "Train and predict": ("mtlkit.run.experiment.Experiment", "mtlkit.run.load.load"),
    "A balancer in your own loop": ("mtlkit.loop.balanced.Balanced",),
    "The engine": ("mtlkit.engine.engine.Engine",),
    "Write a balancer": (
        "mtlkit.balancer.Balancer",
        "mtlkit.balancer.GramBalancer",
        "mtlkit.balancer.LossBalancer",
        "mtlkit.step.Step",
    ),
    "Write a task or a data set": (
        "mtlkit.task.Task",
        "mtlkit.data.dataset.Dataset",
        "mtlkit.target.Target",
        "mtlkit.target.Kind",
        "mtlkit.target.DenseKind",
    ),
    "Write an encoder or a decoder": (
        "mtlkit.network.Encoder",
        "mtlkit.network.EncoderInfo",
        "mtlkit.network.Decoder",
    ),
    "Watch a run": ("mtlkit.observer.Observer",),
    "Test your classes": (
        "mtlkit.testing.check_balancer",
        "mtlkit.testing.check_task",
        "mtlkit.testing.check_dataset",
    ),
}
SHIM = "https://unpkg.com/iframe-worker/shim"  #: what the theme loads for the search in files
KEYS = """\
# Keys of a configuration

`mtlkit describe KEY` prints the same, and `mtlkit schema` writes a JSON schema for editors.

The sections `data`, `model`, `task.NAME`, `task.NAME.decoder` and `balancer` name a class. Their other keys are the
options of this class: see its page below [Data sets](datasets.md), [Encoders](encoders.md), [Tasks](tasks.md),
[Decoders](decoders.md) or [Balancers](balancers.md).
"""
TITLES = "Decoders|Differs from the published experiments|Licence|Memory|Sample|Source|Target|When to use"
GREEK = "alpha beta gamma delta epsilon eta theta lambda mu xi rho sigma tau omega"


# ---- what mkdocs calls


def on_config(config):
    """Adds the made pages to the navigation."""
    (reference,) = (entry["Reference"] for entry in config.nav if "Reference" in entry)
    plug_ins = [{title: [{"Overview": f"reference/{kind}.md"}, *_names(kind)]} for kind, title in KINDS.items()]
    pages = {"Experiments": "experiments", "Commands": "commands", "Python": "python", "The log of a run": "log"}
    reference += [{title: f"reference/{name}.md"} for title, name in pages.items()]
    reference[:0] = [*plug_ins, {"Keys of a configuration": "reference/keys.md"}]
    config.nav.append({"Project": [{title: f"project/{name}"} for name, title in ABOVE.items()]})
    return config


def on_files(files, config):
    """Adds the made pages, and those beside docs/."""
    made = {f"project/{name}": (ROOT / name).read_text(encoding="utf-8") for name in ABOVE}
    for kind in KINDS:
        made |= {f"reference/{kind}/{name}.md": _plug_in(kind, name) for name in _own(kind)}
        if kind != "balancers":  # `make docs` writes its page
            made[f"reference/{kind}.md"] = _list(KINDS[kind], _registry(kind).described(), f"{kind}/")
    made["reference/experiments.md"] = _list("Experiments", experiments.experiments())
    made["reference/keys.md"] = _keys_page()
    made["reference/commands.md"] = _commands()
    made["reference/python.md"] = _python()
    made["reference/log.md"] = f"# The log of a run\n\n{readable(inspect.getdoc(mtlkit.log) or '')}"
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links between docs/ and the pages above it to where these pages are on the site."""
    source = page.file.src_uri
    home = posixpath.dirname(source)
    markdown = re.sub(r"\]\(docs/", f"]({posixpath.relpath('.', home or '.')}/", markdown)
    for name in ABOVE:
        markdown = re.sub(rf"\]\((?:\.\./)+{name}", f"]({posixpath.relpath(f'project/{name}', home or '.')}", markdown)
    if source == "reference/balancers.md":
        markdown = re.sub(r"^\| `(\w+)` \|", r"| [`\1`](balancers/\1.md) |", markdown, flags=re.MULTILINE)
    return markdown


def on_page_content(html, page, config, files):
    """Turns mathematics into MathML, which browsers show without a script."""
    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, html, flags=re.DOTALL)


def on_post_page(output, page, config):
    """Takes docs/worker.js in place of a program from the network."""
    return output.replace(SHIM, posixpath.relpath("worker.js", posixpath.dirname(page.url) or "."))


def on_post_template(output_content, template_name, config):
    """Does the same in 404.html, which belongs to no folder."""
    return output_content.replace(SHIM, "/worker.js")


def _mathml(found: re.Match) -> str:
    made = convert(html.unescape(found[2]), display="inline" if found[1] == "span" else "block")
    if "\\" in made:
        raise ValueError(f"latex2mathml does not know a command of this formula: {found[2]}")
    return made


# ---- the pages


def _registry(kind: str):
    return getattr(mtlkit, kind.upper())


def _own(kind: str) -> list[str]:
    """Returns the names of mtlkit's own classes."""
    registry = _registry(kind)
    return [name for name in registry.names() if registry.get(name).__module__.startswith("mtlkit.")]


def _names(kind: str) -> list[dict[str, str]]:
    return [{name: f"reference/{kind}/{name}.md"} for name in _own(kind)]


def _list(title: str, described: dict[str, str], folder: str = "") -> str:
    rows = [
        f"| {f'[`{n}`]({folder}{n}.md)' if folder else f'`{n}`'} | {_cell(text)} |" for n, text in described.items()
    ]
    return "\n".join([f"# {title}\n", "| name | what it is |", "| --- | --- |", *rows]) + "\n"


def _plug_in(kind: str, name: str) -> str:
    """Returns the page of one class: its docstring and, of a balancer, the facts of the table."""
    cls = _registry(kind).get(name)
    options = {} if kind == "kinds" else option_keys(_registry(kind), name)
    table = f"## Options\n\n{_table(options.items())}" if options else ""
    text = readable(inspect.getdoc(cls) or "", options=table)
    parts = [f"# {name}", text if table in text else f"{text}\n\n{table}"]
    if kind == "balancers":
        parts += ["## Facts", _facts(name, cls), "## Use it", f"```console\nmtlkit train scenes balancer={name}\n```"]
    home = Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()
    return "\n\n".join([*parts, f"Class `{cls.__name__}` in `{home}`."]) + "\n"


def _facts(name: str, cls: type) -> str:
    titles = ("needs", "spaces", "decoders", "options", "cost", "state", "memory")  # as in the table of all balancers
    facts = dict(zip(titles, catalog.row(name)[2:-1], strict=True))
    del facts["options"]  # they have a table of their own
    having = [preset for preset in experiments.presets() if name in load_preset(preset).methods]
    facts["presets"] = ", ".join(f"[`{preset}`](../presets.md#{preset})" for preset in having) or "none"
    rows = [f"| {title} | {words} |" for title, words in facts.items()]
    note = "[The table of all balancers](../balancers.md) says what each row means."
    return "\n".join(["| fact | value |", "| --- | --- |", *rows, "", note])


def _table(keys: Iterable[tuple[str, Key]]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, key in keys:
        if keys_below(key.annotation)[0]:
            cells = ("keys", f"`{yaml_text(key.default)}`" if not key.default and key.default is not NONE else "")
        else:
            default = "none: give it" if key.default is NONE else f"`{yaml_text(key.default)}`"
            cells = (annotation_in_words(key.annotation), default)
        rows.append(" | ".join((f"| `{name}`", *map(_cell, (*cells, key.meaning)))) + " |")
    return "\n".join(rows)


def _keys_page() -> str:
    return "\n\n".join(
        [KEYS, *_keys(Config), *_keys(TaskConfig, "task.NAME."), *_keys(DecoderConfig, "task.NAME.decoder.")]
    )


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Yields a table for each section."""
    keys = {f"{prefix}{name}": key for name, key in keys_of(cls).items()}
    yield f"## {prefix.rstrip('.') or 'The top'}"
    yield _table(keys.items())
    for name, key in keys.items():
        below, between = keys_below(key.annotation)
        if below:
            yield from _keys(below, f"{name}.{'N.' if between else ''}")


def _commands() -> str:
    """Returns the help of every command, as the command line prints it."""
    parts = ["# Commands\n"]
    todo = [()]
    while todo:
        words, text = todo[0], _help(*todo[0])
        parts.append(f"## {' '.join(('mtlkit', *words))}\n\n```text\n{text}```\n")
        found = re.search(r"^(?:Commands:|  COMMAND)\n((?: +\w+ .*\n)+)", text, re.MULTILINE)
        below = re.findall(r"^ {2,4}(\w+) ", found[1], re.MULTILINE) if found else []
        todo[:1] = [(*words, name) for name in below]
    return "\n".join(parts)


def _help(*words: str) -> str:
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
        mock.patch.dict(os.environ, COLUMNS="100"),
    ):
        main([*words, "--help"])
    return printed.getvalue()


def _python() -> str:
    lines = [
        "# Python\n",
        "The names of `mtlkit` that programs use, and the checks of `mtlkit.testing` for your classes.\n",
    ]
    for title, names in API.items():
        lines += [f"## {title}\n", *(f"::: {name}\n    options:\n      heading_level: 3\n" for name in names)]
    return "\n".join(lines)


# ---- docstrings


class Readable(griffe.Extension):
    """Makes the docstrings of the page Python readable."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Replaces a docstring's text."""
        if obj.docstring:
            obj.docstring.value = readable(inspect.cleandoc(obj.docstring.value), options=None)


def readable(text: str, options: str | None = "") -> str:
    """Returns a docstring as Markdown: examples in blocks of code, formulas with indices, links.

    `options` replaces `Args:`, and `Raises:` becomes a list. With None, both stay for mkdocstrings.
    """
    made = []
    for part in re.split(r"\n\s*\n", text):
        if part.lstrip().startswith(">>>"):
            title = "" if options is None else "## Example\n\n"
            made.append(f"{title}```pycon\n{inspect.cleandoc(part)}\n```")
        elif title := re.match(r"(Args|Raises|Returns|Yields):\n", part):
            if options is not None:
                made.append(options if title[1] == "Args" else f"## Errors\n\n{_entries(part[title.end() :])}")
            else:
                pieces = re.split(r"(^ {4}\w[\w, ]*:(?= |$))", part[title.end() :], flags=re.MULTILINE)
                pieces[::2] = (_outside_code(piece, _mathematics) for piece in pieces[::2])
                made.append(title[0] + "".join(pieces))
        elif re.match(r" {4}", part):
            made.append(part)
        else:
            made.append(_outside_code(part, _mathematics))
    return "\n\n".join(made)


def _entries(text: str) -> str:
    entries = re.findall(r"^ {4}(\S.*?): *((?:.*)(?:\n {5,}.*)*)", text, re.MULTILINE)
    return "\n".join(f"- `{name}`: {_cell(words)}" for name, words in entries)


def _cell(text: str) -> str:
    return _outside_code(" ".join(text.split()), _mathematics).replace("|", "&#124;")


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("`") else change(part) for part in re.split(r"(`[^`]+`)", text))


def _mathematics(text: str) -> str:
    """Writes indices and powers as such, Greek letters, and signs, and keeps Markdown from reading the rest."""
    text = re.sub(rf"\b({GREEK.replace(' ', '|')})(?=\b|_)", lambda m: f"&{m[1]};", text)
    for plain, sign in {"<=": "≤", ">=": "≥", "<-": "←", "->": "→", "sum_": "∑_"}.items():
        text = text.replace(plain, sign)
    text = text.replace("<", "&lt;").replace("*", "&#42;").replace("$", "&#36;").replace("[", "&#91;")
    base, index = r"(?<![\w])(d?\w|&\w+;|∑|min|max|mean|grad|argmin|target)([~']?)", r"(\{[^{}]*\}|\w+)"
    text = re.sub(rf"{base}_{index}", lambda m: f"{m[1]}{m[2]}<sub>{m[3].strip('{}')}</sub>", text)
    text = re.sub(
        r"(?<=[\w;>)|])\^(\{[^{}]*\}|-?\w+|&\w+;|\([^()]*\))", lambda m: f"<sup>{m[1].strip('{}')}</sup>", text
    )
    text = re.sub(r"\bdocs/([\w/]+)\.md", lambda m: f"[{m[1].rpartition('/')[2]}.md]({m[0]})".replace("_", "\0"), text)
    text = re.sub(r"\barXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(rf"^({TITLES}):", r"**\1:**", text).replace("_", "&#95;").replace("\0", "_")
