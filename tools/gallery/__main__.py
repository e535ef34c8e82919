"""Makes the gallery of the documentation: trains small runs and a small study, and keeps their pages and pictures.

    python -m gallery [rooms] [digits] [attributes] [comparison] [pictures] [--mnist ROOT] [--runs FOLDER]

A part that has finished before is not trained again. `pictures` takes pictures of the pages with Chromium, for README.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mtlkit.cli.main import main as mtlkit
from mtlkit.report import pictures_png

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SIZES = {"report": ("rooms", "#what-does-it-predict", 1060), "compare": ("comparison", "", 900)}  #: page, part, height


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="rooms, digits, attributes, comparison or pictures")
    parser.add_argument("--mnist", default="data", help="the folder with MNIST's files")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery", help="where the runs are kept")
    arguments = parser.parse_args()
    commands = {
        "rooms": ["train", "demo"],
        "digits": ["train", "multimnist", f"data.root={arguments.mnist}", "balancer=gradnorm", "data.train_size=20000"],
        "attributes": ["train", str(Path(__file__).with_name("attributes.yaml"))],
        "comparison": ["compare", str(Path(__file__).with_name("comparison.yaml"))],
    }
    known = [*commands, "pictures"]
    if wrong := [part for part in arguments.parts if part not in known]:
        parser.error(f"there is no part {wrong[0]!r}; known are {', '.join(known)}")
    for part in arguments.parts or known:
        if part == "pictures":
            _pictures(arguments.runs)
        else:
            _make(part, commands[part], arguments.runs / part)
    return 0


def _make(part: str, command: list[str], folder: Path) -> None:
    again = [] if command[0] == "compare" else ["--multirun"]  # goes on with a run, or leaves a finished one
    status = mtlkit([*command, f"output_dir={folder}", *again])
    if status:
        sys.exit(status)
    if command[0] == "train":
        mtlkit(["report", str(folder)])  # by the present code, if the run is older
    page = folder / ("compare.html" if command[0] == "compare" else "report.html")
    (DOCS / "gallery").mkdir(exist_ok=True)
    shutil.copyfile(page, DOCS / "gallery" / f"{part}.html")


def _pictures(runs: Path) -> None:
    """Takes pictures of the upper parts of two pages, and makes the picture of the predictions."""
    shutil.copyfile(pictures_png(runs / "rooms"), DOCS / "demo.png")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Pictures of pages need Chromium (apt-get install chromium).")
    for name, (page, part, height) in SIZES.items():
        source = (DOCS / "gallery" / f"{page}.html").as_uri() + part
        # Chromium draws nothing of a page that begins at a part of it, except inside of a frame.
        frame = f'<body style="margin: 0"><iframe src="{source}" width="1280" height="{height}" style="border: 0">'
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "frame.html")
            path.write_text(frame)
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            options += [f"--window-size=1280,{height}", f"--screenshot={DOCS / name}.png", "--virtual-time-budget=2000"]
            # It complains about much that is missing here, so its words are not shown.
            subprocess.run([chromium, *options, path.as_uri()], check=True, timeout=120, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
