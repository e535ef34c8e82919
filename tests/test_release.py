"""The parts of a release: equal versions, bounds, the tools that check it, and the files for contributors."""

import importlib
import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pages import REPOSITORY, page_of

import mtlkit
from mtlkit.cli.main import main

PROJECT = tomllib.loads(page_of("pyproject.toml"))
TARGETS = set(re.findall(r"^([a-z-]+):", page_of("Makefile"), re.MULTILINE))
FORMS = sorted(path for path in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module


@pytest.fixture
def release(tools) -> ModuleType:
    return tools("release_check")


# ---- versions


def test_the_version_is_the_installed_ones(capsys: pytest.CaptureFixture) -> None:
    assert mtlkit.__version__ == version("mtlkit")
    assert mtlkit.__version__ == PROJECT["project"]["version"], "pyproject.toml has changed: call `make install`"
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == mtlkit.__version__
    with pytest.raises(AttributeError, match="module 'mtlkit' has no attribute '__verison__'"):
        _ = mtlkit.__verison__


def test_the_versions_agree(release: ModuleType) -> None:
    assert release.check_versions() == mtlkit.__version__


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pyproject.toml", 'version = "', 'version = "9.'),
        ("CITATION.cff", 'version: "', 'version: "9.'),
        ("CITATION.cff", 'date-released: "20', 'date-released: "19'),
        ("CHANGELOG.md", "\n## [0", "\n## [9.0"),
        ("CHANGELOG.md", "\n## [0", "\n## 0"),
    ],
)
def test_versions_that_differ_are_named(release: ModuleType, tmp_path: Path, monkeypatch, file, old, new) -> None:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    release.check_versions()
    changed = re.sub(f"^{old.strip()}" if old[0] != "\n" else re.escape(old), new, page_of(file), flags=re.MULTILINE)
    assert changed != page_of(file)
    (tmp_path / file).write_text(changed)
    with pytest.raises(SystemExit, match=r"^FAILED  (pyproject\.toml has .*9|CHANGELOG\.md has)"):
        release.check_versions()


# ---- what is built


def test_every_folder_with_code_is_a_package_of_the_wheel() -> None:
    """Every package folder is listed: a missing one works in the working tree, but not after an installation."""
    options = PROJECT["tool"]["setuptools"]
    folders = {"balancers", "tasks", "configs"} | {str(f.parent) for f in Path("mtlkit").glob("**/*.py")}
    found = {str(f.parent.relative_to(REPOSITORY)) for f in (REPOSITORY / "mtlkit").glob("**/*.py")} | folders
    listed = {options["package-dir"].get(name, name.replace(".", "/")) for name in options["packages"]}
    assert listed == found


@pytest.fixture
def built(release: ModuleType, tmp_path: Path, monkeypatch):
    """`built(path, ...)` makes an sdist and a wheel of a small package without these files."""
    files = {
        "mtlkit/__init__.py": "mtlkit/__init__.py",
        "mtlkit/py.typed": "mtlkit/py.typed",
        "balancers/__init__.py": "mtlkit/balancers/__init__.py",
        "tasks/__init__.py": "mtlkit/tasks/__init__.py",
        "configs/__init__.py": "mtlkit/configs/__init__.py",
        "configs/task/depth.yaml": "mtlkit/configs/task/depth.yaml",
    }

    def listing(*words: str, folder: Path) -> str:
        return "\n".join(name for name in files if name.startswith(f"{words[-1]}/"))

    def make(*without: str) -> tuple[Path, Path]:
        sdist, wheel = tmp_path / "p.tar.gz", tmp_path / "p.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in files.values():
                if name not in without:
                    archive.writestr(name, "")
            archive.writestr("mtlkit-1.dist-info/METADATA", "")
        (tmp_path / "empty").touch()
        with tarfile.open(sdist, "w:gz") as archive:
            for name in ("pyproject.toml", "README.md", "LICENSE", *files):
                if name not in without:
                    archive.add(tmp_path / "empty", f"mtlkit-1/{name}")
        return sdist, wheel

    monkeypatch.setattr(release, "run", listing)
    return make


def test_whole_archives_pass(release: ModuleType, built, capsys: pytest.CaptureFixture) -> None:
    release.check_contents(*built())
    assert "the wheel has the package's 6 files, py.typed and 1 configurations among them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("without", "problem"),
    [
        ("mtlkit/py.typed", r"the wheel lacks \['mtlkit/py\.typed'\]"),
        ("mtlkit/configs/task/depth.yaml", r"the wheel lacks \['mtlkit/configs/task/depth\.yaml'\]"),
        ("LICENSE", r"the sdist lacks \['LICENSE'\]"),
        ("balancers/__init__.py", r"the sdist lacks \['balancers/__init__\.py'\]"),
    ],
)
def test_what_an_archive_lacks_is_named(release: ModuleType, built, without: str, problem: str) -> None:
    with pytest.raises(SystemExit, match=f"^FAILED  {problem}"):
        release.check_contents(*built(without))


def test_a_command_that_fails_is_shown(release: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)^FAILED  .*: exit status 3\n.*before it ended"):
        release.run(sys.executable, "-c", "print('before it ended'); raise SystemExit(3)", folder=tmp_path)


def test_the_plug_in_of_the_release_check_is_the_walks(release: ModuleType) -> None:
    name, text = release.balancer_of_the_page()
    assert f'@BALANCERS.register("{name}")' in text


# ---- lower bounds


def test_every_dependency_has_a_lower_bound(tools) -> None:
    lowest = tools("lower_bounds").lowest
    dependencies = PROJECT["project"]["dependencies"]
    assert lowest(dependencies) == [text.replace(">=", "==") for text in dependencies]
    assert lowest(["a-b>=1.2,<3"]) == ["a-b==1.2"]
    for text in ("numpy", "numpy<3", "numpy==2"):
        with pytest.raises(ValueError, match=f"'{text}' must begin with NAME>=VERSION"):
            lowest([text])


# ---- files for contributors


def test_the_citation_has_what_the_format_demands() -> None:
    citation = yaml.safe_load(page_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The mtlkit authors"}]
    assert all(isinstance(citation[key], str) for key in ("message", "title", "version", "date-released"))
    assert citation["license"] == PROJECT["project"]["license"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_demands(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(form) <= {"name", "description", "labels", "body"}
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    keys = {"input": {"placeholder"}, "textarea": {"placeholder", "render"}, "checkboxes": {"options"}}
    for part in fields:
        assert set(part["attributes"]) <= {"label", "description"} | keys[part["type"]]
    assert len({part["id"] for part in fields}) == len(fields) > 1
    assert all(part["attributes"]["label"] for part in fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert {path.stem for path in FORMS} == {"bug", "wrong_number", "new_method"}


def test_the_workflow_calls_what_there_is() -> None:
    jobs = yaml.safe_load(page_of(".github/workflows/test.yml"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["make test", "make lower-bounds"]
    assert {command.removeprefix("make ") for command in commands} <= TARGETS
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == lowest
    assert jobs["test"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    assert jobs["lower-bounds"]["steps"][1]["with"]["python-version"] == lowest


def test_the_hooks_are_the_programs_of_make_lint() -> None:
    (repository,) = yaml.safe_load(page_of(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"  # nothing is downloaded
    hooks = {" ".join(hook["entry"].split()[:2]).replace(" --force-exclude", "") for hook in repository["hooks"]}
    lint = page_of("Makefile").partition("\nlint:")[2].partition("\n\n")[0]
    called = {" ".join(line.split()[:2]) for line in lint.replace("$(BIN)", ".venv/bin").splitlines()[1:]}
    assert {hook.removesuffix(" .") for hook in hooks} == {line.removesuffix(" .") for line in called}


def test_the_pages_name_targets_that_there_are() -> None:
    pages = "".join(map(page_of, ("CONTRIBUTING.md", "README.md", ".github/pull_request_template.md")))
    named = set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", pages, re.MULTILINE))
    assert {a or b for a, b in named} <= TARGETS
    assert {"release-check", "test-portable", "lower-bounds"} <= {a or b for a, b in named}
