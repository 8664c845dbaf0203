"""The lock of a study: one driver at a time, and none after its process has died."""

import datetime as dt
import errno
import json
import os
import subprocess
import sys

import pytest

from sweep.errors import UserError
from sweep.store import lock

DRIVER = (
    "import sys, pathlib, time; from sweep.store.lock import lock_study\n"
    "with lock_study(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
)


def test_one_driver_at_a_time_holds_the_lock_and_none_after_kill_9(tmp_path):
    assert lock.read_lock_holder(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "locked\n"
        driver = lock.read_lock_holder(tmp_path)
        assert driver["pid"] == first.pid
        assert driver["host"] == os.uname().nodename
        assert dt.datetime.fromisoformat(driver["started_at"]).tzinfo is not None
        with pytest.raises(UserError) as caught, lock.lock_study(tmp_path):
            pass
        assert f"pid {first.pid} on {driver['host']}, since {driver['started_at']}" in str(caught.value)
        first.kill()
    assert lock.read_lock_holder(tmp_path) is None
    with lock.lock_study(tmp_path):
        assert lock.read_lock_holder(tmp_path)["pid"] == os.getpid()
        assert json.loads((tmp_path / "driver.lock").read_text())["pid"] == os.getpid()
    assert lock.read_lock_holder(tmp_path) is None


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    read, write = os.pipe()
    with lock.lock_study(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent has looked
            os._exit(0)
    try:
        assert lock.read_lock_holder(tmp_path) is None
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


def test_every_driver_has_its_own_token(tmp_path):
    assert lock.read_last_holder_token(tmp_path) == ""
    tokens = []
    for _ in range(2):
        with lock.lock_study(tmp_path):
            tokens.append(lock.read_last_holder_token(tmp_path))
            assert lock.read_lock_holder(tmp_path)["token"] == tokens[-1]
        assert lock.read_last_holder_token(tmp_path) == tokens[-1], "work that it has started can still be attributed"
    assert len({"", *tokens}) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": 1}'])
def test_a_lock_file_with_damaged_content_still_locks(tmp_path, text):
    with lock.lock_study(tmp_path):
        (tmp_path / "driver.lock").write_text(text)
        assert lock.read_last_holder_token(tmp_path) == ""
        with pytest.raises(UserError, match="another process runs this study: pid"), lock.lock_study(tmp_path):
            pass


@pytest.mark.parametrize("kind", ["truncated", "written"])
def test_a_disk_that_is_full_when_the_holder_is_written_is_a_user_error(tmp_path, monkeypatch, kind):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sweep.store.lock.create_study", lambda folder: None)
    monkeypatch.setattr(f"os.{'ftruncate' if kind == 'truncated' else 'write'}", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"), lock.lock_study(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_user_error(tmp_path, monkeypatch, number):
    with lock.lock_study(tmp_path):
        pass

    def unable(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", unable)
    with pytest.raises(UserError, match=r"a study needs hard links and flock"), lock.lock_study(tmp_path):
        pass
    assert lock.read_lock_holder(tmp_path) is None, "a copy of a study there can still be read"


def test_a_new_driver_removes_temporary_files_of_killed_ones(tmp_path):
    names = [
        ".plan.json.0a.tmp", "trials/.a.1.parquet.0a.tmp", "epochs/.a.1.parquet.0a.tmp", "checkpoints/a/.last.pt.7.tmp",
        "measurements/.m.parquet.0a.tmp", "compacted/.trials-1.parquet.0a.tmp",
    ]  # fmt: skip
    kept = ["trials/a.1.parquet", "checkpoints/a/last.pt", "report/.index.html.0a.tmp", "notes.tmp"]
    for name in (*names, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with lock.lock_study(tmp_path), pytest.raises(UserError), lock.lock_study(tmp_path):
        pass
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*kept, "driver.lock"}


def test_a_process_without_the_lock_removes_nothing(tmp_path):
    with lock.lock_study(tmp_path):
        writing = tmp_path / "trials" / ".a.1.parquet.0a.tmp"
        writing.touch()
        with pytest.raises(UserError), lock.lock_study(tmp_path):
            pass
        assert writing.exists()
