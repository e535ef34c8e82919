"""Only one run may train in a folder. The tests show which one, whatever happened to earlier runs."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_distributed import launch

from mtlkit import process as processes
from mtlkit.errors import RESUME
from mtlkit.run import claim
from mtlkit.run.claim import CLAIM, claimed

CLAIMANT = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from mtlkit.run.claim import claimed
me, folders = sys.argv[1], [Path(word) for word in sys.argv[2:]]
base = folders[0].parent
(base / f"ready{me}").touch()
while not (base / "go").exists(): time.sleep(0.001)
with ExitStack() as stack:
    for folder in folders:
        try:
            stack.enter_context(claimed(folder))
        except FileExistsError as error:
            assert "is in use: process" in str(error), error
        else:
            (folder / f"winner{me}").touch()
    (base / f"done{me}").touch()
    while not (base / "end").exists(): time.sleep(0.01)
"""


def process(code, *words):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], env=env, stderr=subprocess.PIPE, text=True)


def wait_for(*paths):
    end = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"{paths} did not appear"
        time.sleep(0.01)


def left_by(folder, **changes):
    """Writes the claim of another process into the folder: this process's claim with some facts changed."""
    folder.mkdir(exist_ok=True)
    (folder / CLAIM).write_text(json.dumps(processes.this_process() | {"token": "other"} | changes))


@pytest.fixture
def sleeper():
    other = subprocess.Popen(["sleep", "1000"])
    yield other
    other.kill()
    other.wait()


def test_of_several_claimants_at_once_one_wins_also_the_claim_of_a_dead_process(tmp_path, sleeper):
    sleeper.kill()
    sleeper.wait()
    folders = [tmp_path / f"folder{number}" for number in range(40)]
    for folder in folders[::2]:
        left_by(folder, pid=sleeper.pid, born="1")
    names = range(3)
    claimants = [process(CLAIMANT, name, *folders) for name in names]
    try:
        wait_for(*(tmp_path / f"ready{name}" for name in names))
        (tmp_path / "go").touch()
        wait_for(*(tmp_path / f"done{name}" for name in names))
        assert [len(list(folder.glob("winner*"))) for folder in folders] == [1] * len(folders)
        owners = {json.loads((folder / CLAIM).read_text())["pid"] for folder in folders}
        assert owners <= {claimant.pid for claimant in claimants}
        (tmp_path / "end").touch()
        assert [claimant.wait(60) for claimant in claimants] == [0, 0, 0]
        assert not list(tmp_path.glob(f"*/{CLAIM}*"))  # all claims are given up, and no temporary file is left
    finally:
        for claimant in claimants:
            claimant.kill()
            claimant.communicate()


def test_a_living_process_is_named_and_keeps_its_folder(tmp_path, sleeper):
    left_by(tmp_path, pid=sleeper.pid, born=processes.birth(sleeper.pid))
    before = (tmp_path / CLAIM).read_bytes()
    words = rf"in use: process {sleeper.pid} on .*, since 2.*another output_dir"
    with pytest.raises(FileExistsError, match=words), claimed(tmp_path):
        pass
    assert (tmp_path / CLAIM).read_bytes() == before


def test_the_same_process_cannot_have_a_folder_twice(tmp_path):
    with claimed(tmp_path / "a"):
        with pytest.raises(FileExistsError, match=f"process {os.getpid()} on"), claimed(tmp_path / "a"):
            pass
        assert (tmp_path / "a" / CLAIM).exists()


def test_a_number_that_another_process_got_does_not_count(tmp_path, sleeper):
    left_by(tmp_path, pid=sleeper.pid, born="1")  # this process is alive, but started at another time
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["pid"] == os.getpid()


def test_a_killed_process_that_nobody_counted_yet_is_dead(tmp_path, sleeper):
    left_by(tmp_path, pid=sleeper.pid, born=processes.birth(sleeper.pid))
    sleeper.kill()
    deadline = time.monotonic() + 60
    while processes.birth(sleeper.pid) != "":
        assert time.monotonic() < deadline
    with claimed(tmp_path):
        pass


DEAD = {"pid": 2**22 + 1, "born": "1"}  # there is no such process here


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"pid_namespace": "pid:[1]"},  # a container
        {"host": "another", "machine": "m", "boot": "b"},
        {"machine": "m", "boot": "b"},  # another machine with our name: both are called localhost
        {"machine": "", "boot": "b"},  # perhaps this one before it was started again, but nothing says so
        {"host": "another", "boot": ""},  # what releases before 0.3 wrote
    ],
)
def test_of_another_machine_or_container_nothing_is_assumed(tmp_path, elsewhere, monkeypatch):
    if elsewhere.get("machine") == "":
        monkeypatch.setattr(processes, "_line", lambda path: "" if "machine" in path else "now")
    left_by(tmp_path, **DEAD | elsewhere)
    with pytest.raises(FileExistsError, match=r"another machine or container.* remove .*\.claim"), claimed(tmp_path):
        pass


@pytest.mark.parametrize(
    "facts",
    [
        {"since": "2999-01-01T00:00:00+00:00"},  # the clock was set back since then
        {"host": "renamed"},
        {"boot": "before", "pid": os.getpid()},  # the machine was started again, and now we have that number
    ],
)
def test_the_claim_of_a_dead_process_of_this_machine_is_replaced(tmp_path, facts, monkeypatch):
    monkeypatch.setattr(processes, "_line", lambda path: path)  # a machine may have no such files
    left_by(tmp_path, **DEAD | facts)
    (tmp_path / f"{CLAIM}.0123.tmp").touch()  # of a start that was killed
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def me(**changes):
    return json.dumps(processes.this_process() | changes)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "half a cl", "[" * 100_000, "\udcff"),
        *(me(pid=pid) for pid in ("1", -1, 0, True, 2**80, 1.5, None)),
        *(me(host=["a"]), me(born=7), me(since="\x1b[31m"), me(boot=1)),
    ],
)
def test_a_claim_that_cannot_be_read_is_respected(tmp_path, text):
    (tmp_path / CLAIM).write_text(text, encoding="utf-8", errors="surrogateescape")
    before = (tmp_path / CLAIM).read_bytes()
    with pytest.raises(FileExistsError, match=r"remove that file.* cannot be read"), claimed(tmp_path):
        pass
    assert (tmp_path / CLAIM).read_bytes() == before


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_a_claim_that_is_no_file_is_respected(tmp_path, make):
    make(tmp_path / CLAIM)
    with pytest.raises(FileExistsError, match=r"remove that file.* It is not a file"), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    def refuse(self, text):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match=f"output_dir={tmp_path} cannot be written: .*only|denied"), claimed(tmp_path):
        pass


def test_a_folder_that_can_be_written_no_more_does_not_hide_how_the_run_ended(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def train():
        with claimed(tmp_path):
            monkeypatch.setattr(Path, "unlink", refuse)
            raise KeyError

    with pytest.warns(UserWarning, match=r"claim .*\.claim could not be removed"), pytest.raises(KeyError):
        train()
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match=r"does not belong to mtlkit, remove .*\.claim"), claimed(tmp_path):
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_is_given_up_however_the_run_ends(tmp_path, error):
    with pytest.raises(error), claimed(tmp_path / "a" / "b"):
        raise error
    assert not (tmp_path / "a" / "b").exists()  # the folder was made for this run, which left it empty
    (tmp_path / "c").mkdir()
    with pytest.raises(error), claimed(tmp_path / "c"):
        raise error
    assert not list((tmp_path / "c").iterdir())


def test_a_claim_that_somebody_else_took_after_a_removal_by_hand_stays(tmp_path):
    with claimed(tmp_path):
        left_by(tmp_path, pid=1)
        other = (tmp_path / CLAIM).read_text()
    assert (tmp_path / CLAIM).read_text() == other


def test_without_hard_links_a_folder_still_has_one_owner(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(claim.os, "link", link)
    with claimed(tmp_path), pytest.raises(FileExistsError, match=f"process {os.getpid()} on"), claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_ends_the_job_leaves_no_claim(tmp_path):
    code = "import sys, time; from pathlib import Path; from mtlkit.run.claim import claimed\n"
    code += "with claimed(Path(sys.argv[1])): time.sleep(1000)"
    job = process(code, tmp_path / "run")
    wait_for(tmp_path / "run" / CLAIM)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == RESUME, job.communicate()[1]
    job.communicate()
    assert not (tmp_path / "run").exists()


def test_two_processes_of_a_run_claim_once_and_both_learn_of_a_refusal(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mtlkit import distributed; from mtlkit.run.claim import claimed\n"
        "distributed.start()\n"
        "with claimed(Path(sys.argv[1]) / 'free'):\n"
        "    assert (Path(sys.argv[1]) / 'free' / '.claim').exists(); distributed.gather(None)\n"
        "try:\n"
        "    with claimed(Path(sys.argv[1]) / 'taken'): pass\n"
        "except FileExistsError as error:\n"
        "    assert f'process {sys.argv[2]} on' in str(error)\n"
        "else:\n"
        "    sys.exit(5)\n"
        "import torch; torch.distributed.destroy_process_group()\n"
    )
    with claimed(tmp_path / "taken"):
        launch(2, "-c", code, str(tmp_path), str(os.getpid()))
    assert not Path(tmp_path, "free").exists()
