"""The log of the programs' edges: starts, ends, peers that come and go; never a line per job.

Owns format and level, and the line that counts what a log has lost. A log that cannot be written
(its disk is full, its reader is gone or does not read) ends nobody and stops nobody: see `output`.
`structlog` is imported on the first use, so that a program which only parses flags does not pay for
it; the supervisor uses it before it forks, so that its children share it.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO, cast

import msgspec

from flashq.config import LogFormat, LogLevel
from flashq.observability.output import STDERR_FILENO, output

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger


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
            lines.note_program,
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
    """Standard error for a log: a line leaves at once, or waits in a bounded queue."""

    def __init__(self) -> None:
        #: of the last line
        self._program = "flashq"
        self._output = output(STDERR_FILENO)
        self._output.tell_lost = self._tell_lost

    def write(self, text: str) -> int:
        """Write a line; one that cannot be written is counted."""
        self._output.write(text)
        return len(text)

    def note_program(self, _logger: object, _level: str, event: EventDict) -> EventDict:
        """Remember the program, for a line that nobody asked for."""
        self._program = event.get("program", self._program)
        return event

    def _tell_lost(self, lines: int) -> None:
        log_of(self._program).warning("lines of the log were lost", lines_lost=lines)


def log_of(program: str) -> FilteringBoundLogger:
    """Return the log of a program; every line carries its name, as in `flashq-shard 3`."""
    import structlog

    log: FilteringBoundLogger = structlog.get_logger(program=program)
    return log


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
