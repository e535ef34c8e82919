"""Compares the published protocols with the public code that they repeat.

    python tools/compare_protocols.py PATH [--only EXPERIMENT ...] [--write docs/reference/protocols.md]

PATH is a folder with clones of the public repositories, each under its own name, such as PATH/nash-mtl. What has no
clone there is "not compared". The tool takes single classes and functions out of the clones and compares them in a run
with what mtlkit builds from its own configuration: parameters, outputs with the same weights, losses, metrics, an
augmented sample, learning rates and options. It needs neither data nor weights. It runs code of the clones, so take
repositories that you trust.

Each item is "same", "differs" or "not compared". A known difference has its reason in tools/published. The exit status
is 1 if something else differs, or if a known difference no longer exists.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from published.attributes import CelebAFAMO, ChestXray14
from published.base import BIN, EXACT, GUARD, SINGLE, Found, MismatchError, Protocol
from published.clones import NotThereError
from published.digits import CLRR, MultiDigitMNIST, MultiMNISTOriginal
from published.maps import CityscapesMTAN, NYUv2LibMTL, NYUv2MTAN, NYUv2Rotograd

import mtlkit
from mtlkit.files import write_whole
from mtlkit.registry import suggest

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.experiment: protocol
    for protocol in (
        NYUv2MTAN,
        CityscapesMTAN,
        CelebAFAMO,
        NYUv2LibMTL,
        NYUv2Rotograd,
        CLRR,
        MultiDigitMNIST,
        ChestXray14,
        MultiMNISTOriginal,
    )
}

#: Published protocols that cannot be compared, and why.
WITHOUT_CODE = {
    "celeba_rotograd": "The authors' repository (adrianjav/rotograd) has no code for CelebA.",
    "multimnist_parity": "The authors' repository (adrianjav/rotograd) has no code for Multi-MNIST.",
    "multimnist_rotograd": "The authors' repository (adrianjav/rotograd) has no code for Multi-MNIST.",
    "nyuv2_cosreg": "No public code of CosReg is known.",
    "sunrgbd": "No public code of CosReg is known.",
}


@dataclass(frozen=True)
class Row:
    """A row of a table: an item, its verdict, its figures, and why it differs. `alarm`: nobody expected this."""

    item: str
    verdict: str
    figures: str = ""
    why: str = ""
    alarm: bool = False


def compare(protocol: Protocol) -> list[Row]:
    """Compares all items of a protocol."""
    try:
        protocol.clone.commit()
    except NotThereError as error:
        return [Row("everything", "not compared", why=f"{error}")]
    items = protocol.items()
    stray = set(protocol.reasons) - set(items)
    assert not stray, f"{protocol.experiment}: reasons for items that do not exist: {stray}"
    rows = []
    for item, function in items.items():
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # public code prints as it goes
                found = function()
        except NotThereError as error:
            rows.append(Row(item, "not compared", why=f"{error}"))
            continue
        except MismatchError as error:
            found = Found(False, f"{error}")
        rows.append(judge(item, found, protocol.reasons.get(item, "")))
    return rows


def judge(item: str, found: Found, reason: str) -> Row:
    """Returns the row of an item, for which `reason` says why it is known to differ, or is empty."""
    if found.same:
        why = "Its reason in tools/published is out of date." if reason else ""
        return Row(item, "same", found.figures, why, alarm=bool(reason))
    return Row(item, "differs", found.figures, reason or "Unexpected.", alarm=not reason)


def source(protocol: Protocol) -> str:
    """Returns the repository and the commit that the protocol was compared with."""
    try:
        commit = protocol.clone.commit()
    except NotThereError:
        return protocol.repository
    note = "" if commit == protocol.commit else f", while the reasons below are about {protocol.commit}"
    return f"{protocol.repository} {commit}{note}"


def page(found: dict[Protocol, list[Row]], command: str) -> str:
    """Returns the page with a table for each protocol."""
    lines = [
        "# Published protocols and public code",
        "",
        "This page is the output of `tools/compare_protocols.py`. The tool takes classes and functions out of clones",
        "of the public repositories. It compares them in a run with what mtlkit builds from its configuration. Both",
        "networks get the same weights and images. Everything is computed in float64, except where the public code",
        "takes float32. Three things are not part of it: balancers (see [presets](presets.md)), the selection of an",
        "epoch, and the files of the data.",
        "",
        f"The verdict is “same” up to {EXACT:.0e} of the largest number, which is rounding. Figures that public",
        f"code computes in float32 may differ by {SINGLE:.0e}, the loss of normals by {GUARD:.0e} (mtlkit guards its",
        f"division by 0), and angles by {BIN}° (mtlkit keeps a histogram of them). The augmented sample is made of",
        "smooth waves. At the edges of a photograph the same half pixel makes a larger difference.",
        "",
        f"Run on {date.today()} with mtlkit {mtlkit.__version__}{own_commit()}, torch {torch.__version__}:",
        "",
        f"    {command}",
        "",
        "| experiment | public code | same | differs | not compared |",
        "|---|---|---|---|---|",
    ]
    for protocol, rows in found.items():
        counts = Counter(row.verdict for row in rows)
        numbers = " | ".join(str(counts[verdict]) for verdict in ("same", "differs", "not compared"))
        lines.append(f"| `{protocol.experiment}` | {source(protocol)} | {numbers} |")
    lines += [f"| `{name}` | {why} | | | |" for name, why in WITHOUT_CODE.items()]
    for protocol, rows in found.items():
        lines += ["", f"## {protocol.experiment}", "", f"Compared with {source(protocol)}.", ""]
        lines += ["| item | verdict | figures | why |", "|---|---|---|---|"]
        lines += [f"| {row.item} | {row.verdict} | {row.figures} | {row.why} |" for row in rows]
    return "\n".join(lines) + "\n"


def own_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a folder with clones of the public repositories")
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="compare only these experiments")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables to this file")
    given = parser.parse_args(words)
    if not given.path.is_dir():
        parser.error(
            f"{given.path} is no folder. Name the folder that holds the clones, such as {given.path}/nash-mtl."
        )
    for name in given.only or []:
        if name not in PROTOCOLS:
            why = WITHOUT_CODE.get(name) or suggest(name, PROTOCOLS)
            parser.error(f"no comparison for the experiment {name!r}. {why}")
    found = {}
    for name, protocol in PROTOCOLS.items():
        if given.only is None or name in given.only:
            one = protocol(given.path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old code uses what torch and numpy advise against
                found[one] = compare(one)
            tell(one, found[one])
    if given.write:
        command = " ".join(["python tools/compare_protocols.py PATH", *(["--only", *given.only] if given.only else [])])
        write_whole(given.write, page(found, f"{command} --write {given.write}").encode())
    alarms = sum(row.alarm for rows in found.values() for row in rows)
    if alarms:
        sys.stdout.write(
            f"\n{alarms} items were not expected (marked !). Correct mtlkit, or the reasons in tools/published.\n"
        )
    return 1 if alarms else 0


def tell(protocol: Protocol, rows: list[Row]) -> None:
    sys.stdout.write(f"\n{protocol.experiment}: {source(protocol)}\n")
    for row in rows:
        words = "; ".join(filter(None, (row.figures, row.why)))
        sys.stdout.write(f"{'!' if row.alarm else ' '} {row.verdict:12s}  {row.item}: {words}\n")


if __name__ == "__main__":
    sys.exit(main())
