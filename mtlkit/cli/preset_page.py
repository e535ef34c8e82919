"""The table of all presets, as `docs/reference/presets.md` shows it."""

import json
from collections.abc import Mapping
from typing import Any

from mtlkit.cli.experiments import preset_comments
from mtlkit.config.presets import Method, Preset, load_preset

INTRODUCTION = """\
# Presets: what each code base does with each method

`mtlkit list presets --markdown` makes this page from the files in `configs/balancer_preset`. Do not edit the page.

Code bases differ in what they do with the same method: in its options, the gradients that they compare, the gradients
of the decoders, the clip and the rates. A published row is a row of one code base. `preset=NAME` sets all of this for
the balancer of the run:

```console
mtlkit train nyuv2_mtan balancer=cagrad preset=famo data.root=/data/nyuv2
mtlkit train nyuv2_mtan balancer=cagrad,nash preset=nash_mtl data.root=/data/nyuv2 --multirun
```

Experiments with a published protocol name a preset in their file. It is their default: `preset=OTHER` takes another
one, and `preset=null` takes none. mtlkit warns if a published protocol runs without a preset. If the code base does not
have the balancer, a preset on the command line is refused, and the default of an experiment is left out with a warning.

A preset replaces the values of mtlkit's files. What you write yourself stays: words of the command line, and keys in
the file of yours that names the preset. A run's `config.yaml` contains the values and the name. A preset of your own is
a YAML file of the same form: `preset=path/to/mine.yaml`.

The columns are:

- *balancer*: options of the balancer. mtlkit's defaults hold for all others (docs/reference/balancers.md).
- *trainer*: keys of `trainer`. The line above each table has those for all methods. `decoder_gradients` is what the
  decoders get; `clip_encoder` clips the combined gradient of the shared parameters alone.
- *source*: files and lines of the code.
- *differs all the same*: what mtlkit does not do as that code does.
"""


def markdown() -> str:
    """Returns the page: the introduction, which preset has which method, and a table for each preset."""
    found = {name: load_preset(name) for name in preset_comments()}
    methods = sorted({method for preset in found.values() for method in preset.methods})
    overview = [["method", *(f"`{name}`" for name in found)], ["---"] * (len(found) + 1)]
    overview += [[f"`{m}`", *("yes" if m in preset.methods else "" for preset in found.values())] for m in methods]
    parts = [INTRODUCTION, _table(overview)]
    for (name, comment), preset in zip(preset_comments().items(), found.values(), strict=True):
        rows = [["method", "balancer", "trainer", "source", "differs all the same"], ["---"] * 5]
        rows += [row(method, given) for method, given in preset.methods.items()]
        common = f"Code: {preset.code}.\n\nFor all methods: {_words(preset.trainer)}."
        parts += [f"## {name}\n\n{comment}\n\n{common}\n", _table(rows)]
        parts += [_left_out(preset)] if preset.left_out else []
    return "\n".join(parts)


def row(name: str, method: Method) -> list[str]:
    """Returns the cells of a method's row.

    >>> row("famo", Method(source="a.py:1", balancer={"gamma": 0.1}, for_data={"b": {"balancer": {"gamma": 0.2}}}))
    ['`famo`', '`gamma=0.1`; with `b`: `gamma=0.2`', '', 'a.py:1', '']
    """
    cells = [f"`{name}`", _cell(method, "balancer"), _cell(method, "trainer"), method.source, method.note or ""]
    return [cell.replace("|", "\\|") for cell in cells]


def _cell(method: Method, section: str) -> str:
    own = [_words(getattr(method, section))]
    own += [f"with `{data}`: {_words(given[section])}" for data, given in method.for_data.items() if section in given]
    return "; ".join(part for part in own if part)


def _words(values: Mapping[str, Any]) -> str:
    """Returns values as on the command line."""
    return ", ".join(
        f"`{key}={value if isinstance(value, str) else json.dumps(value)}`" for key, value in values.items()
    )


def _left_out(preset: Preset) -> str:
    return "".join(f"Not here: `{method}`. {reason}.\n" for method, reason in preset.left_out.items())


def _table(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
