"""run.log in a study's folder: what driver and workers log, one line each, appended by all of them."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LOGGER = logging.getLogger("sweep")
_FORMAT = f"%(asctime)s {socket.gethostname()}:%(process)d %(levelname)s %(message)s"


class _LineHandler(logging.Handler):
    """Appends each record in one write, so that lines of several processes do not mix."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        formatter = logging.Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        # a full or read-only disk must not end a run: the log only informs
        with contextlib.suppress(OSError), open(self._file, "ab", buffering=0) as file:
            file.write((self.format(record) + "\n").encode("utf-8", "replace"))


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Append what sweep's loggers say to `file` while the block runs. Nested blocks of one file log each line once."""
    if any(isinstance(handler, _LineHandler) and handler._file == file for handler in LOGGER.handlers):
        yield
        return
    handler, level, propagate = _LineHandler(file), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # the terminal has its own listener
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
