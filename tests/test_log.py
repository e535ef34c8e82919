"""The contract of observers, and the log: whole lines, valid JSON, exact resumption."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from mtlkit.files import write_whole
from mtlkit.log import JsonLines, read_log, truncate_after
from mtlkit.observer import Observer

RECORDS = [
    {"step": 0, "split": "val", "depth/abs": 1.0},
    {"step": 10, "split": "train", "loss/depth": 0.5},
    {"step": 20, "split": "train", "loss/depth": 0.25},
    {"step": 20, "split": "val", "depth/abs": 0.125},
    {"step": 30, "split": "train", "loss/depth": 0.1},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def full(path: Path) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def test_an_observer_may_ignore_everything():
    observer = Observer()
    observer.start(10, 0)
    observer.note({})
    observer.step({})
    observer.evaluation({})
    observer.finish({})


def test_what_is_logged_is_read_back(path):
    log = JsonLines(path)
    log.start(30, 0)
    log.note({"step": 0, "split": "info", "versions": {"torch": "2"}})
    for record in RECORDS:
        (log.evaluation if record["split"] == "val" else log.step)(record)
        assert read_log(path)[-1] == record  # the line is in the file at once
    log.finish({"status": "finished"})
    assert read_log(path)[1:] == RECORDS
    assert len(path.read_text().splitlines()) == len(RECORDS) + 1


def test_each_record_is_one_write(path, monkeypatch):
    log, writes, write = JsonLines(path), [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or write(fd, data))
    for record in RECORDS:
        log.step(record)
    assert [json.loads(data) for data in writes] == RECORDS
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in writes)
    monkeypatch.undo()
    log.finish({})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), np.float32("nan"), np.float64("inf")])
def test_values_that_are_not_finite_become_null(path, value):
    log = JsonLines(path)
    log.step({"step": np.int64(1), "split": "train", "loss/a": value, "loss/b": np.float32(0.5), "nested": [[value]]})
    log.finish({})
    assert read_log(path) == [{"step": 1, "split": "train", "loss/a": None, "loss/b": 0.5, "nested": [[None]]}]


def test_what_json_has_no_form_for_is_refused_and_leaves_no_trace(path):
    log = JsonLines(path)
    with pytest.raises(TypeError):
        log.step({"step": 1, "split": "train", "loss/a": object()})
    log.finish({})
    assert path.read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file():
    log = JsonLines(Path("/dev/full"))
    with pytest.raises(OSError, match="/dev/full") as caught:
        log.step({"step": 1, "split": "train"})
    assert caught.value.errno == errno.ENOSPC
    os.close(log._descriptor)


def test_a_line_that_the_disk_cut_short_is_taken_back(full, monkeypatch):
    before = full.read_bytes()
    log, write = JsonLines(full, resume=30), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        log.step({"step": 40, "split": "train"})
    monkeypatch.undo()
    assert full.read_bytes() == before
    log.finish({})


def test_evaluations_reach_the_disk(path, monkeypatch):
    log, synced = JsonLines(path), []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(len(read_log(path))))
    for record in RECORDS:
        (log.evaluation if record["split"] == "val" else log.step)(record)
    assert synced == [1, 4]
    log.finish({})


def test_a_new_run_does_not_write_into_another(full):
    before = full.read_bytes()
    with pytest.raises(FileExistsError, match="another output_dir"):
        JsonLines(full)
    assert full.read_bytes() == before


def test_resuming_drops_what_came_after_the_checkpoint(full):
    log = JsonLines(full, resume=20)
    log.step({"step": 30, "split": "train", "loss/depth": 7.0})
    log.finish({})
    assert read_log(full) == [*RECORDS[:4], {"step": 30, "split": "train", "loss/depth": 7.0}]


def test_truncation_leaves_the_kept_lines_alone(full):
    full.write_bytes(b'{"step":5,   "split":"train"}\n' + full.read_bytes() + b'{"step": 5, "spl')
    truncate_after(full, 10)
    assert full.read_bytes().startswith(b'{"step":5,   "split":"train"}\n')
    assert [record["step"] for record in read_log(full)] == [5, 0, 10]
    assert [entry.name for entry in full.parent.iterdir()] == [full.name]


def test_truncation_of_a_log_that_is_not_there(path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        truncate_after(path, 10)


def test_a_torn_last_line_is_left_out_with_a_warning(full):
    with full.open("ab") as file:
        file.write(b'{"step": 40, "split": "tr')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:6: the last line is incomplete"):
        assert read_log(full) == RECORDS


@pytest.mark.parametrize(
    "line", ["{", "", "[1]", '{"step": 1}', '{"split": "val"}', '{"step": 1, "split": "val", "a/b": NaN}', "\x00\xff"]
)
@pytest.mark.parametrize("use", [read_log, lambda path: truncate_after(path, 10)])
def test_what_is_no_record_is_an_error_with_file_and_line(full, line, use):
    before = full.read_bytes() + line.encode() + b"\n"
    full.write_bytes(before)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:6: "):
        use(full)
    assert full.read_bytes() == before


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
