"""SECURITY.md: which files can run code, and which cannot."""

import io
import json
import pickle
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Group
from rich.table import Table
from rich.text import Text

import mtlkit
from mtlkit import Experiment
from mtlkit.cli.main import main, warnings_in_words
from mtlkit.cli.output import print_lines
from mtlkit.config import plugins
from mtlkit.console import Console
from mtlkit.plain_text import plain
from mtlkit.report import write_report
from mtlkit.run.checksums import seal
from mtlkit.terminal import Terminal
from mtlkit.typed import Source

SMALL = ["scenes", "model.encoder=test_resnet", "model.levels=[1,2]", "data.size=[64,48]", "output_dir=run"]
SMALL += ["data.train_size=4", "data.val_size=4", "data.batch_size=4"]


CODE = "from pathlib import Path; Path('ran').touch()\n"


class Code:
    """Makes the file `ran` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_would_run_if_it_were_let() -> None:
    pickle.loads(pickle.dumps(Code()))
    assert Path("ran").exists()


def test_a_file_of_pretrained_weights_runs_no_code(capsys: pytest.CaptureFixture) -> None:
    torch.save({"conv1.weight": Code()}, "weights.pth")
    assert main(["train", *SMALL, "model.pretrained=weights.pth"]) == 2
    assert "weights.pth cannot be loaded into 'test_resnet'" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_the_state_of_training_runs_no_code(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *SMALL, "trainer.max_steps=1"]) == 0
    path = Path("run/checkpoints/last/training.pt")
    torch.save({**torch.load(path, weights_only=True), "step": Code()}, path)
    seal(path.parent)  # whoever writes such a file can write its checksum
    resume = ["train", *SMALL, "trainer.max_steps=2", "--resume"]
    assert main(resume) == 2
    assert f"{path} is damaged, or holds what mtlkit did not write" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_yaml_builds_no_objects(capsys: pytest.CaptureFixture) -> None:
    path = Path("run/config.yaml")
    path.parent.mkdir()
    path.write_text("seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [ran]]")
    for command in (["train", str(path)], ["evaluate", "run"]):
        assert main(command) == 2
        assert str(path) in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.fixture
def foreign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of somebody else, and in the current folder the module that it names. Importing that is an error."""
    Experiment.compose("scenes").config.save(folder / "config.yaml")
    text = (folder / "config.yaml").read_text()
    assert "plugins: []" in text
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(text.replace("plugins: []", "plugins: [hidden_module]"))
    (folder / "hidden_module.py").write_text(f"{CODE}raise ValueError('this far')\n")
    installed_in(folder, "hidden_module")  # the folder says itself that it is an installation
    (folder / "study").mkdir()
    (folder / "mine.yaml").write_text("plugins: [hidden_module]\n")
    Image.new("RGB", (64, 48)).save("picture.png")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def installed_in(folder: Path, module: str, **files: str) -> None:
    """Writes what pip writes into the folder of packages in which it has installed a module."""
    own = folder / f"{module}-1.0.dist-info"
    own.mkdir(parents=True)
    (own / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (own / "RECORD").write_text(f"{module}.py,,\n{module}/part.py,,\n{module}.pth,,\n")
    for name, text in files.items():
        (own / ".".join(name.rsplit("_", 1))).write_text(text)


STUDY = "experiment: {}\nwords: {}\nmethods: {{a: {}}}\nseeds: [0]\n"


@pytest.mark.parametrize(
    ("words", "imports"),
    [
        (["evaluate", "run"], False),
        (["evaluate", "run", "data.root=."], False),
        (["evaluate", "run", "plugins=[hidden_module]"], True),
        (["evaluate", "run", "--trust-plugins"], True),
        (["predict", "run", "picture.png", "--out", "out"], False),
        (["predict", "run", "picture.png", "--out", "out", "--trust-plugins"], True),
        (["export", "run", "--encoder", "a.safetensors", "--trust-plugins"], True),
        (["train", "run/config.yaml", "output_dir=other"], False),
        (["train", "run/config.yaml", "output_dir=other", "--trust-plugins"], True),
        (["train", "run/config.yaml", "plugins=[hidden_module]"], True),
        (["train", "renamed.yaml"], False),
        (["train", "mine.yaml"], True),
        (["train", "scenes", "output_dir=run", "--resume"], False),
        (["train", "scenes", "output_dir=run", "--resume", "--trust-plugins"], True),
        (["data", "show", "run/config.yaml"], False),
        (["data", "show", "mine.yaml"], True),
        (["compare", "run", "run"], False),
        (["compare", "run", "run", "--trust-plugins"], True),
        (["compare", "study/1"], False),
        (["compare", "study/1", "--trust-plugins"], True),
        (["compare", "study/2"], False),
        (["compare", "study/3"], False),
        (["compare", "renamed_study.yaml"], True),
        (["report", "run"], False),
        (["explain", "run"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_which_words_import_the_plug_ins_of_a_file(
    words: list[str], imports: bool, foreign: Path, capsys: pytest.CaptureFixture
) -> None:
    """The plug-in raises an error when it is imported, so the command stops there. A file of a run may be anybody's."""
    Path("renamed.yaml").write_text(Path("run/config.yaml").read_text())
    if words[0] == "compare":  # which asks for the log first
        Path("run/metrics.jsonl").write_text('{"step": 1, "split": "train", "status": "finished"}\n')
    word = "'plugins=[hidden_module]'"
    studies = [("mine.yaml", "[]", "''"), ("scenes", f"[{word}]", "''"), ("scenes", "[]", word)]
    for number, text in enumerate(studies, 1):
        Path(f"study/{number}").mkdir()
        Path(f"study/{number}/study.yaml").write_text(STUDY.format(*text))
    Path("renamed_study.yaml").write_text(STUDY.format(*studies[0]))
    main(words)
    said = capsys.readouterr().err
    assert Path("ran").exists() == ("this far" in said) == imports
    # Python looks here only for what somebody has named: no library's optional module, no entry point of this folder.
    assert (str(foreign) in sys.path) == imports
    if not imports and words[0] not in ("predict", "report", "explain", "export"):
        assert "names the module 'hidden_module', which no installed package provides" in said
        assert "--trust-plugins" in said


def test_what_counts_as_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, project, here = folder / "site", folder / "project", folder / "project" / "here"
    for place in (site, project / "src", here, here / "spread"):
        place.mkdir(parents=True)
    monkeypatch.chdir(here)
    # `python -m mtlkit` looks into the current folder first, and `pip install -e` adds the folder `src`.
    monkeypatch.setattr(sys, "path", [str(here), *sys.path, str(site), str(project / "src")])
    editable = json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})
    installed_in(site, "lab")
    installed_in(site, "shadowed")
    installed_in(site, "spread")
    installed_in(site, "setuptools_like", direct_url_json=editable, top_level_txt="developed\n")
    installed_in(site, "hatch_like", direct_url_json=editable)
    (site / "hatch_like.pth").write_text(f"{project / 'src'}\n")
    installed_in(site, "registering", entry_points_txt="[mtlkit.plugins]\nany = pointed.parts\n")
    installed_in(here, "boasting", entry_points_txt="[mtlkit.plugins]\nany = boasting\n")
    (site / "spread").mkdir()
    for file in ("lab", "shadowed", "stray", "spread/part"):
        (site / f"{file}.py").write_text(CODE)
    for file in ("here/shadowed", "here/boasting", "here/found", "here/spread/other", "src/developed", "src/linked"):
        (project / f"{file}.py").write_text(CODE)
    given = ("lab", "spread.part", "developed", "linked", "pointed.parts.one", "mtlkit.data")
    assert [name for name in given if not plugins.installed(name)] == []
    strange = ("shadowed", "boasting", "found", "spread.other", "stray", "pointed", "nowhere", "antigravity", "sys")
    assert [name for name in strange if plugins.installed(name)] == []
    assert not Path("ran").exists()
    with pytest.raises(ValueError, match="names the module 'nowhere', and there is no such module"):
        plugins.import_installed(["nowhere"], Source("a.yaml"))
    with pytest.raises(ValueError, match=r"plugins: expected names of modules, .* found '\.lab' \(in a.yaml\)"):
        plugins.import_plugins([".lab"], Source("a.yaml"))


HOSTILE = "\x1b]0;owned\x07\x1b[2Jok\r\x9b1m\u202egnp.\u2066\udcff[red]:smile:"
SHOWN = r"\x1b]0;owned\x07\x1b[2Jok\r\x9b1m\u202egnp.\u2066\udcff[red]:smile:"


def test_no_text_of_a_file_steers_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever prints: lines, errors, warnings, a mistake in the words, rich's tables and the progress of a run."""
    print_lines([f"{HOSTILE} caf\u00e9\tend"])
    assert capsys.readouterr().out == f"{SHOWN} caf\u00e9\tend\n"
    assert main(["evaluate", HOSTILE]) == 2
    with pytest.raises(SystemExit):
        main(["predict", "run", "a.png", "--out", "out", f"--{HOSTILE}"])
    others: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *more: others.append(str(message)))
        with warnings_in_words():
            warnings.warn_explicit(HOSTILE, UserWarning, mtlkit.__file__, 1)
            warnings.warn_explicit(HOSTILE, DeprecationWarning, "other.py", 1)
    assert others == [SHOWN]
    said = capsys.readouterr().err
    assert said.count(SHOWN) == 3
    assert plain(said) == said
    table = Table("task", title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    for live in (False, True):
        file = io.StringIO()
        terminal = Terminal(file=file, width=200, force_terminal=live, force_interactive=live, color_system=None)
        terminal.print(HOSTILE, Text(HOSTILE), table, Group(HOSTILE))
        console = Console(None, terminal)
        console.start(2, 0)
        figures = {"step": 1, f"depth/{HOSTILE}": 0.5, f"loss/{HOSTILE}": 1.0}
        console.note({"step": 0, "split": "info", "incident": HOSTILE, "model": [HOSTILE], "decoders": HOSTILE})
        console.step({**figures, "split": "train"})
        console.evaluation({**figures, "split": "val"})
        console.finish({"status": HOSTILE})
        shown = file.getvalue()
        if live:  # without what rich itself writes to move the cursor
            shown = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown).replace("\r", "")
        assert shown.count(SHOWN) >= 8  # names longer than 32 characters are cut
        assert plain(shown) == shown


EVIL = "<img src=x onerror=alert(1)>"
FORMAT = {"split", "status", "started", "kind"}  #: keys whose values are no free text


def spoilt(value: object) -> object:
    """Returns the value with HTML in every text and in the names of metrics."""
    if isinstance(value, dict):
        names = {key: key + EVIL if key.startswith("depth/") else key for key in value}
        return {names[key]: item if key in FORMAT else spoilt(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spoilt(item) for item in value]
    return value + EVIL if isinstance(value, str) else value


def test_a_report_holds_no_markup_of_a_file(folder: Path) -> None:
    run = Experiment.compose(SMALL[0], [*SMALL[1:], "trainer.max_steps=1", "task=[depth]"]).run()
    config = (run / "config.yaml").read_text().replace("experiment: scenes", f"experiment: '{EVIL}'")
    (run / "config.yaml").write_text(config.replace("name: scenes", f"name: '{EVIL}'"))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(spoilt(record))}\n" for record in records))
    page = write_report(run).read_text()
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") > 10
    assert EVIL not in page
