"""The log of the programs' edges: starts, ends, peers that come and go; never a line per job.

Owns format and level. `structlog` is imported on the first use, so that whoever only parses flags
does not pay for it; the supervisor uses it before it forks, so that its children share it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from flashq.config import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


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
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info
            if log_format == "json"
            else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def log_of(program: str) -> FilteringBoundLogger:
    """Return the log of a program; every line carries its name, as in `flashq-shard 3`."""
    import structlog

    log: FilteringBoundLogger = structlog.get_logger(program=program)
    return log


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
