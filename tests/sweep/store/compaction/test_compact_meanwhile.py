"""Compaction with concurrent readers, killed at any point, or on a full disk: every row is seen once at any moment."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pandas as pd
import pytest
from compact_study import ROWS, assert_rungs_and_logs, assert_same, everything, leave_rungs_and_logs, loose
from synthetic_study import save

from sweep.errors import UserError
from sweep.store import parts
from sweep.store import study as store
from sweep.store.compaction import compacted
from sweep.store.compaction.compact import _fold_logs, compact
from sweep.store.rungs import fold_rungs


@pytest.mark.parametrize("before", ["loose", "compacted"])
@pytest.mark.parametrize("moment", ["read_manifest", "list_loose_parts", "_read_loose_parts"])
def test_a_reader_sees_every_row_once_while_a_compaction_runs(tmp_path, monkeypatch, moment, before):
    save(tmp_path, ROWS[:4])
    if before == "compacted":
        compact(tmp_path)
    save(tmp_path, ROWS[4:8])
    expected = everything(tmp_path)
    real, overtaken = getattr(parts, moment), []

    def overtaking(*arguments):
        answer = real(*arguments)
        if not overtaken:
            overtaken.append(True)
            compact(tmp_path)
        return answer

    monkeypatch.setattr(parts, moment, overtaking)
    frame, damaged = store.read_rows(tmp_path)
    assert overtaken
    assert damaged == []
    pd.testing.assert_frame_equal(frame, expected[0])


def test_one_row_is_found_while_a_compaction_moves_it(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:2])
    before = store.read_result(tmp_path, ROWS[0].trial_id, 1)
    real, overtaken = parts.read_manifest, []

    def overtaking(folder):
        answer = real(folder)
        if not overtaken:
            overtaken.append(True)
            compact(tmp_path)
        return answer

    monkeypatch.setattr(parts, "read_manifest", overtaking)
    assert store.read_result(tmp_path, ROWS[0].trial_id, 1) == before
    assert overtaken


def test_readers_in_other_processes_see_every_row_once(tmp_path):
    """They read continually while rows are added and compacted; a row that was seen once is never missing."""
    save(tmp_path, ROWS[:1])
    program = textwrap.dedent("""
        import sys, pathlib
        from sweep.store import study as store
        folder, seen, reads = pathlib.Path(sys.argv[1]), set(), 0
        while not (folder / "stop").exists():
            rows, damaged = store.read_rows(folder, ["status"])
            now = rows["trial_id"].tolist()
            assert damaged == [], damaged
            assert len(now) == len(set(now)), "twice"
            assert seen <= set(now), "missing"
            seen, reads = set(now), reads + 1
            if reads == 1:
                print("reading", flush=True)
        print(reads, len(seen), flush=True)
    """)
    readers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["reading\n"] * 2
        for i in range(1, 21):
            save(tmp_path, [replace(ROWS[0], trial_id=f"t{i}")])
            compact(tmp_path)
        (tmp_path / "stop").touch()
        for reader in readers:
            reads, seen = reader.communicate(timeout=60)[0].split()
            assert reader.returncode == 0
            assert int(reads) > 1
            assert 1 <= int(seen) <= 21
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


KILLED = textwrap.dedent("""
    import os, shutil, signal, sys
    from pathlib import Path
    from sweep.store.compaction.compact import _fold_logs, compact

    source, copies = Path(sys.argv[1]), Path(sys.argv[2])
    for point in range(1, 1000):
        copy = copies / str(point)
        shutil.copytree(source, copy)
        child = os.fork()
        if child == 0:
            left = point

            def killing(function):
                def call(*arguments, **options):
                    global left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*arguments, **options)

                return call

            for name in ("fsync", "replace", "link", "rename", "unlink", "mkdir"):
                setattr(os, name, killing(getattr(os, name)))
            compact(copy)
            os._exit(0)
        _, ended = os.waitpid(child, 0)
        if os.WIFEXITED(ended):
            sys.exit(os.WEXITSTATUS(ended))
        assert os.WTERMSIG(ended) == signal.SIGKILL
""")


def test_a_compaction_killed_at_any_point_loses_nothing_and_the_next_goes_on(tmp_path):
    """A real kill -9 before every call that changes the folder, one point after another."""
    study, copies = tmp_path / "study", tmp_path / "copies"
    save(study, ROWS[:2])
    compact(study)
    save(study, ROWS[2:4])
    torn = study / "trials" / "torn.1.parquet"
    torn.write_bytes(b"PAR1")
    leave_rungs_and_logs(study, ["a", "b"])
    fold_rungs(study)
    _fold_logs(study)
    leave_rungs_and_logs(study, ["c", "d"])
    rows, epochs = store.read_rows(study)[0], store.read_epochs(study)[0]
    subprocess.run([sys.executable, "-c", KILLED, str(study), str(copies)], check=True)
    killed = sorted(copies.iterdir())
    assert len(killed) > 25
    for copy in killed:
        for expected, read in ((rows, store.read_rows), (epochs, store.read_epochs)):
            frame, damaged = read(copy)
            pd.testing.assert_frame_equal(frame, expected)
            assert set(damaged) <= {copy / "trials" / "torn.1.parquet"}
        assert_rungs_and_logs(copy, ["a", "b", "c", "d"])
        compact(copy)
        assert_same(everything(copy)[:2], [rows, epochs])
        assert loose(copy) == []
        files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
        assert len([name for name in files if name.startswith("compacted/")]) == 4
        assert not [name for name in files if name.startswith(".manifest")]
        assert [name for name in files if name.startswith("quarantine/")] == ["quarantine/trials/torn.1.parquet"]
        assert_rungs_and_logs(copy, ["a", "b", "c", "d"])
        assert {name for name in files if name.startswith(("rungs", "logs"))} == {
            "rungs/group/1/folded", "rungs/group/3/folded", "logs/folded.txt",
        }  # fmt: skip


def test_a_compaction_on_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:3])
    before = everything(tmp_path)

    def no_room(path, data, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(compacted, "write_atomically", no_room)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        compact(tmp_path)
    assert_same(everything(tmp_path), before)
