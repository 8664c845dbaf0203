"""Folders that cannot hold a study: a full disk, no rights, no hard links, or not a folder."""

import errno
import os

import pytest
from synthetic_study import files, results, table_plan

import sweep
from sweep.errors import UserError
from sweep.plan.plan_file import read_plan, save_plan
from sweep.report.write import write_report
from sweep.store import lock
from sweep.store import study as store
from sweep.store.recovery import quarantine

PLAN = table_plan(2)
ROWS = results(PLAN)


def test_a_full_disk_leaves_no_files(tmp_path, monkeypatch):
    store.create_study(tmp_path)

    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left") as caught:
        store.write_result(tmp_path, ROWS[0], [])
    assert not isinstance(caught.value, UserError)
    assert files(tmp_path) == []
    with pytest.raises(UserError, match=r"cannot be written: No space left.*--out"):
        save_plan(tmp_path, PLAN)


def test_a_file_instead_of_a_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for function in (store.create_study, lambda folder: save_plan(folder, PLAN)):
        with pytest.raises(UserError, match=r"file/study: cannot be written: .*/file is not a folder; move it away"):
            function(tmp_path / "file" / "study")
    with pytest.raises(UserError, match="cannot be written"), lock.lock_study(tmp_path / "file" / "study"):
        pass


def test_a_folder_without_rights_is_a_user_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        store.create_study(tmp_path / "closed" / "study")


def test_the_advice_for_a_read_only_folder_can_be_followed_by_every_command(tmp_path, monkeypatch):
    save_plan(tmp_path, PLAN)

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.mkdir", read_only)
    with pytest.raises(UserError, match=r"Read-only.* a run with --out, report and compact on a copy$"):
        write_report(tmp_path)


def test_a_folder_without_a_study_is_a_user_error(tmp_path):
    for load in (sweep.load_results, sweep.load_epochs):
        with pytest.raises(UserError, match="holds no study"):
            load(tmp_path)
    with pytest.raises(UserError, match=r"plan.json"):
        read_plan(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        store.read_rows(tmp_path / "file" / "study")


def test_the_probe_is_large_enough_to_find_a_full_disk(tmp_path, monkeypatch):
    """An empty file can be written even to a full disk."""
    sizes = []
    real = store.write_atomically
    monkeypatch.setattr(
        store, "write_atomically", lambda path, data, **o: sizes.append(len(data)) or real(path, data, **o)
    )
    store.create_study(tmp_path)
    assert sizes == [store.PROBE_BYTES]
    assert store.PROBE_BYTES >= 4096
    assert list((tmp_path / "trials").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_a_user_error(tmp_path, monkeypatch, number):
    def unable(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", unable)
    with pytest.raises(UserError, match=r"a study needs hard links and flock: choose another folder with --out"):
        store.create_study(tmp_path)
    assert list((tmp_path / "trials").iterdir()) == []


def test_a_damaged_part_that_cannot_be_moved_is_a_user_error(tmp_path, monkeypatch):
    store.create_study(tmp_path)
    part = tmp_path / "trials" / "a.1.parquet"
    part.touch()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.mkdir", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        quarantine(tmp_path, [part])
