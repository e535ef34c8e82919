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


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"pid_namespace": "pid:[1]"}])
def test_of_another_host_or_container_nothing_is_assumed(tmp_path, elsewhere):
    left_by(tmp_path, pid=2**22 + 1, born="1", **elsewhere)  # there is no such process here
    with pytest.raises(FileExistsError, match=r"another machine or container.* remove .*\.claim"), claimed(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", "half a cl"])
def test_a_claim_that_cannot_be_read_is_respected(tmp_path, text):
    (tmp_path / CLAIM).write_text(text)
    with pytest.raises(FileExistsError, match=r"remove that file.* cannot be read"), claimed(tmp_path):
        pass
    assert (tmp_path / CLAIM).read_text() == text


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
