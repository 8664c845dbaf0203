"""One driver for a study at a time, and none once its process is gone."""

import datetime as dt
import json
import os
import subprocess
import sys

import pytest

from sweep import driver_lock
from sweep.errors import UserError

DRIVER = (
    "import sys, pathlib, time; from sweep.driver_lock import lock_study\n"
    "with lock_study(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
)


def test_one_driver_at_a_time_and_none_after_kill_9(tmp_path):
    assert driver_lock.driver_of(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "locked\n"
        driver = driver_lock.driver_of(tmp_path)
        assert driver["pid"] == first.pid
        assert driver["host"] == os.uname().nodename
        assert dt.datetime.fromisoformat(driver["started_at"]).tzinfo is not None
        with pytest.raises(UserError) as caught, driver_lock.lock_study(tmp_path):
            pass
        assert f"pid {first.pid} on {driver['host']}, since {driver['started_at']}" in str(caught.value)
        first.kill()
    assert driver_lock.driver_of(tmp_path) is None
    with driver_lock.lock_study(tmp_path):
        assert driver_lock.driver_of(tmp_path)["pid"] == os.getpid()
        assert json.loads((tmp_path / "driver.lock").read_text())["pid"] == os.getpid()
    assert driver_lock.driver_of(tmp_path) is None


def test_the_lock_does_not_live_on_in_a_forked_child(tmp_path):
    read, write = os.pipe()
    with driver_lock.lock_study(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent has looked
            os._exit(0)
    try:
        assert driver_lock.driver_of(tmp_path) is None
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


def test_every_driver_has_a_token_of_its_own(tmp_path):
    assert driver_lock.token_of(tmp_path) == ""
    tokens = []
    for _ in range(2):
        with driver_lock.lock_study(tmp_path):
            tokens.append(driver_lock.token_of(tmp_path))
            assert driver_lock.driver_of(tmp_path)["token"] == tokens[-1]
        assert driver_lock.token_of(tmp_path) == tokens[-1], "what the last one started is still told apart"
    assert len({"", *tokens}) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": 1}'])
def test_a_lock_without_a_whole_word_still_locks(tmp_path, text):
    with driver_lock.lock_study(tmp_path):
        (tmp_path / "driver.lock").write_text(text)
        assert driver_lock.token_of(tmp_path) == ""
        with pytest.raises(UserError, match="another process runs this study: pid"), driver_lock.lock_study(tmp_path):
            pass
