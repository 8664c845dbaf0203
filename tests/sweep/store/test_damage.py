"""Files that cannot be read for a moment, and readers that are killed: no intact file is given up."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process, starts
from synthetic_study import results, save, table_plan

from sweep.errors import UserError
from sweep.store import parts
from sweep.store import study as store
from sweep.store.lock import read_lock_holder
from sweep.store.recovery import quarantine
from sweep.store.row_kinds import TRIALS

ROWS = results(table_plan(2, tuple(range(3))))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_part_that_cannot_be_read_now_does_not_count_as_missing(tmp_path, monkeypatch, number):
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*map(fake_trial, range(3)))
    run_in_process(plan, tmp_path)
    part = tmp_path / "trials" / "fake-seed1.1.parquet"
    real, times = Path.read_bytes, []

    def once(path):
        if path == part and not times:
            times.append(path)
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", once)
    with pytest.raises(UserError, match=r"trials/fake-seed1.1.parquet: is not damaged, .*run the command again"):
        run_in_process(plan, tmp_path)
    assert part.exists()
    assert run_in_process(plan, tmp_path).completed == 3
    assert len(starts(tmp_path)) == 3


def test_a_part_that_stays_unreadable_is_listed_and_not_moved(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:3])
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    real = Path.read_bytes

    def broken(path):
        if path == part:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", broken)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (2, [part])
    with pytest.raises(UserError, match=r"Input/output error; no file is moved.*move it away"):
        quarantine(tmp_path, damaged)


# a killed reader of many parts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_killed_while_it_reads_leaves_neither_lock_nor_process(tmp_path, number):
    save(tmp_path, [replace(row, error="x" * 100_000) for row in ROWS[:6]])  # more than a pipe holds
    program = textwrap.dedent("""
        import os, pathlib, sys, time
        from sweep.store import study as store
        from sweep.store import parts
        from sweep.store.lock import lock_study
        folder, real = pathlib.Path(sys.argv[1]), parts.read_loose_part
        parts.READ_WHOLE_UP_TO, driver = 2, os.getpid()
        def slowly(*arguments):
            if os.getpid() != driver:  # the second process has started, and has closed its copy of the lock
                (folder / "reading").touch()
            time.sleep(0.5)
            return real(*arguments)
        parts.read_loose_part = slowly
        with lock_study(folder):
            store.read_rows(folder)
    """)
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], start_new_session=True)
    while not (tmp_path / "reading").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()
    assert read_lock_holder(tmp_path) is None
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("one of its processes is still there")


def test_the_parts_of_a_killed_reading_process_are_still_read(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:8])
    here, real = os.getpid(), parts.read_loose_part

    def dies(*arguments):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    monkeypatch.setattr(parts, "read_loose_part", dies)
    monkeypatch.setattr(parts, "READ_WHOLE_UP_TO", 2)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (8, [])
    assert set(TRIALS.part_names(parts.read_parts(tmp_path, TRIALS)[0])) == parts.list_parts(tmp_path, TRIALS)
