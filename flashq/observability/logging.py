"""The log of the programs' edges: starts, ends, peers that come and go; never a line per job.

Owns format and level, and that a log which cannot be written (its disk is full, its reader is gone)
ends nobody: the next line that can be says how many it has lost. `structlog` is imported on the
first use, so that whoever only parses flags does not pay for it; the supervisor uses it before it
forks, so that its children share it.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final, TextIO, cast

import msgspec

from flashq.config import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger

STDOUT_FILENO: Final = 1
STDERR_FILENO: Final = 2


def configure_log(level: LogLevel, log_format: LogFormat) -> None:
    """Decide for this process what is logged, and how a line looks; lines go to stderr.

    Args:
        level: the least that is logged.
        log_format: `console` for people, `json` for one object per line.
    """
    import structlog

    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
        )
    lines = _Lines()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lines.tell_lost,
            structlog.processors.format_exc_info
            if log_format == "json"
            else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", lines)),
        cache_logger_on_first_use=False,
    )


class _Lines(io.TextIOBase):
    """Standard error for a log: each line is written at once, and a failure ends nobody."""

    def __init__(self) -> None:
        #: lines since the last one that could be written
        self._lost = 0

    def write(self, text: str) -> int:
        """Write a line, or count it as lost."""
        try:
            write_all(STDERR_FILENO, text)
        except OSError:
            self._lost += 1
        else:
            self._lost = 0
        return len(text)

    def tell_lost(self, _logger: object, _level: str, event: EventDict) -> EventDict:
        """Add to an event how many lines before it were lost."""
        if self._lost:
            event["lines_lost"] = self._lost
        return event


def write_all(fd: int, text: str) -> None:
    """Write a text to a descriptor, without a buffer that could keep a part of it.

    Args:
        fd: the descriptor, which blocks.
        text: what to write; what UTF-8 does not have is replaced.

    Raises:
        OSError: the disk is full, the reader is gone.
    """
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]


def log_of(program: str) -> FilteringBoundLogger:
    """Return the log of a program; every line carries its name, as in `flashq-shard 3`."""
    import structlog

    log: FilteringBoundLogger = structlog.get_logger(program=program)
    return log


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
