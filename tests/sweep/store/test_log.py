"""run.log: the format of its lines, several processes that append at once, and folders that cannot be written."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import socket
from pathlib import Path

import pytest

from sweep.store.log import LOGGER, logging_to

PROCESSES, LINES = 4, 200
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\S+):(\d+) (INFO|WARNING|ERROR) (.*)")


def test_a_line_has_time_host_process_level_and_message(tmp_path: Path) -> None:
    log = logging.getLogger("sweep.anything")
    with logging_to(tmp_path / "run.log"):
        log.info("%s: started", "a-trial")
        log.warning("ünusual \udcff")
        log.debug("not for the file")
    log.error("after the block")
    first, second = (tmp_path / "run.log").read_text().splitlines()
    here = (socket.gethostname(), str(os.getpid()))
    assert LINE.fullmatch(first).groups() == (*here, "INFO", "a-trial: started")
    assert LINE.fullmatch(second).groups() == (*here, "WARNING", "ünusual ?")


def test_a_block_leaves_the_logger_as_it_was(tmp_path: Path) -> None:
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    with pytest.raises(ZeroDivisionError), logging_to(tmp_path / "run.log"):
        raise ZeroDivisionError
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)) == before


def test_nested_blocks_log_each_line_once(tmp_path: Path) -> None:
    with logging_to(tmp_path / "run.log"):
        with logging_to(tmp_path / "run.log"):
            LOGGER.info("inner")
        LOGGER.info("outer")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["inner", "outer"]


def _write_lines(file: Path, number: int) -> None:
    with logging_to(file):
        for i in range(LINES):
            LOGGER.info("%d %d %s", number, i, "x" * 500)


def test_processes_that_append_at_once_keep_whole_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_lines, args=(tmp_path / "run.log", n)) for n in range(PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    matches = [LINE.fullmatch(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert sorted(match[4] for match in matches) == sorted(
        f"{n} {i} {'x' * 500}" for n in range(PROCESSES) for i in range(LINES)
    )


@pytest.mark.parametrize("file", ["missing/run.log", "/dev/full", "."])
def test_a_file_that_cannot_be_written_is_silent(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / file):
        LOGGER.error("lost")
    assert capsys.readouterr() == ("", "")
