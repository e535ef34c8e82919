"""Builds the files of a release and uses them like a new user: installed, and outside this folder.

    python tools/release_check.py      # or: make release-check

It builds the sdist from the last commit, and the wheel from the sdist, so a file that the sdist lacks is noticed here.
Each check prints one line. The first one that fails ends the program with exit status 1. When all pass, the two files
are in dist/.

The wheel is installed into a new environment. A .pth file gives it the packages of the environment that runs this
program: a second copy of torch would take minutes and gigabytes and show nothing about mtlkit. The mtlkit that is
installed there for development is not visible, because Python does not read the .pth files of such folders.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SMALL = ("data.size=[64,48]", "data.train_size=8", "data.val_size=4", "data.batch_size=4", "trainer.max_steps=2")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mtlkit-release-") as name:
        folder = Path(name)
        version = check_versions()
        check_commit(version)
        sdist, wheel = build(folder)
        check_contents(sdist, wheel)
        mtlkit = install(wheel, folder / "environment", version)
        use(mtlkit, folder / "elsewhere")
        (ROOT / "dist").mkdir(exist_ok=True)
        for file in (sdist, wheel):
            shutil.copy(file, ROOT / "dist")
    say(f"all checks passed; {sdist.name} and {wheel.name} are in dist/")
    say("the other half: make test-portable")


def check_versions() -> str:
    """Returns the version in pyproject.toml, CITATION.cff and CHANGELOG.md. Stops if they differ."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    log = re.search(r"^## \[(\d.*?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if log is None:
        raise SystemExit("FAILED  CHANGELOG.md has no released version")
    expect(
        (citation["version"], *log.groups()) == (version, version, citation["date-released"]),
        f"version {version} of {log[2]} in pyproject.toml, CITATION.cff and CHANGELOG.md",
        f"pyproject.toml has {version}, CITATION.cff {citation['version']} of {citation['date-released']}, "
        f"CHANGELOG.md {log[1]} of {log[2]}",
    )
    return version


def check_commit(version: str) -> None:
    """Checks that everything is committed, and that the commit's tag, if it has one, is that of the version."""
    changes = run("git", "status", "--porcelain", folder=ROOT)
    commit = run("git", "rev-parse", "--short", "HEAD", folder=ROOT).strip()
    expect(not changes, f"commit {commit} has all files", f"these files are not committed:\n{changes}")
    tags = run("git", "tag", "--points-at", "HEAD", folder=ROOT).split()
    if tags:
        expect(f"v{version}" in tags, f"tag v{version}", f"the commit has the tag {', '.join(tags)}, not v{version}")
    else:
        say(f"--  no tag at this commit: for the release, `git tag v{version}` and run this again")


def build(folder: Path) -> tuple[Path, Path]:
    """Builds the sdist from the last commit, and the wheel from the sdist."""
    source = folder / "source"
    run("git", "archive", "--output", str(folder / "source.tar"), "HEAD", folder=ROOT)
    with tarfile.open(folder / "source.tar") as archive:
        archive.extractall(source, filter="data")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(source), folder=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    say(f"ok  built {sdist.name}, and {wheel.name} from it")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Checks that the wheel has the whole package and nothing else, and that the sdist has the usual files."""
    folders = {"mtlkit": "mtlkit"} | {name: f"mtlkit/{name}" for name in ("balancers", "tasks", "configs")}
    wanted = {
        f"{package}/{file.relative_to(ROOT / folder)}"
        for folder, package in folders.items()
        for file in map(ROOT.joinpath, run("git", "ls-files", folder, folder=ROOT).split())
    }
    configurations = sum(name.endswith(".yaml") for name in wanted)
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expect(
        found == wanted and "mtlkit/py.typed" in found,
        f"the wheel has the package's {len(wanted)} files, py.typed and {configurations} configurations among them",
        f"the wheel lacks {sorted(wanted - found)} and should not have {sorted(found - wanted)}",
    )
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", *(f"{folder}/__init__.py" for folder in folders)}
    lacks = sorted(needed - names)
    expect(not lacks, "the sdist has pyproject.toml, README, LICENSE and the package", f"the sdist lacks {lacks}")


def install(wheel: Path, environment: Path, version: str) -> Path:
    """Installs the wheel into a new environment. Returns the command mtlkit there."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel), folder=environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Only now, so that pip does not take this environment's mtlkit for an installed one.
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others), encoding="utf-8")
    place, found = run(
        str(python), "-c", "import mtlkit; print(mtlkit.__file__, mtlkit.__version__)", folder=environment
    ).split()
    expect(
        Path(place).is_relative_to(environment) and found == version,
        f"installed elsewhere: mtlkit {found}",
        f"expected mtlkit {version} in {environment}, found {found} in {place}",
    )
    return environment / "bin" / "mtlkit"


def use(mtlkit: Path, folder: Path) -> None:
    """Trains, evaluates, predicts and runs a plug-in with the installed command."""
    folder.mkdir()

    def call(*words: str) -> str:
        return run(str(mtlkit), *words, folder=folder)

    expect("train" in call("--help"), "mtlkit --help", "mtlkit --help does not name the command train")
    listed = {line.split()[0] for line in call("list", "balancers").splitlines()}
    files = {file.stem for file in (ROOT / "balancers").glob("*.py")} - {"__init__"}
    expect(
        listed == files,
        f"mtlkit list balancers: {len(files)}",
        f"mtlkit list balancers has {sorted(listed)}, expected {sorted(files)}",
    )
    call("train", "scenes", *SMALL, "output_dir=run")
    expect((folder / "run" / "report.html").is_file(), "mtlkit train scenes: two steps", "the run has no report.html")
    figures = call("evaluate", "run")
    expect("depth" in figures, "mtlkit evaluate", f"mtlkit evaluate does not name the task depth:\n{figures}")
    picture = folder / "run" / "pictures"
    images = sorted(picture.rglob("*.png"))
    expect(bool(images), f"the run has {len(images)} pictures", f"{picture} has no picture")
    call("predict", "run", str(images[0]), "--out", "predictions")
    files_of = sorted(path.name for path in (folder / "predictions").rglob("*.*"))
    expect(bool(files_of), f"mtlkit predict: {', '.join(files_of)}", "mtlkit predict wrote no file")
    name, text = balancer_of_the_page()
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    call("train", "scenes", *SMALL, f"plugins=[{name}]", f"balancer={name}", "output_dir=plugin")
    used = yaml.safe_load((folder / "plugin" / "config.yaml").read_text(encoding="utf-8"))["balancer"]["name"]
    expect(used == name, f"a plug-in: the balancer {name} of CONTRIBUTING.md", f"the run used the balancer {used}")


def balancer_of_the_page() -> tuple[str, str]:
    """Returns the name of the balancer in CONTRIBUTING.md, which is also that of its module, and its file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL):
        if f'@BALANCERS.register("{name}")' in text:
            return name, text
    raise SystemExit("FAILED  CONTRIBUTING.md has no balancer that is named like its file")


def run(*words: str, folder: Path) -> str:
    """Returns the output of a command that runs in `folder`. If it fails, the program prints it and ends."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = f"{done.stdout}{done.stderr}"[-3000:]
        raise SystemExit(f"FAILED  {' '.join(words)}: exit status {done.returncode}\n{said}")
    return done.stdout


def expect(passed: bool, what: str, problem: str) -> None:
    if not passed:
        raise SystemExit(f"FAILED  {problem}")
    say(f"ok  {what}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
