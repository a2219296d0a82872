"""How much the options of a push may say, at whichever door and for whichever program.

Owns the bounds on texts and lists of `JobOptions`. Durations and counts are bounded by their types.
"""

from __future__ import annotations

from typing import Final

from flashq.errors import FieldTooLarge
from flashq.protocol.jobs import JobOptions

TEXT_BYTES_MAX: Final = 1024
"""The longest unique key, custom id, debounce id or tag."""
TAGS_MAX: Final = 64

_KEYS: Final = ("unique_key", "job_id", "debounce_id")


def check_options(options: JobOptions, *, depends_on_max: int) -> None:
    """Refuse options of which a text or list is beyond its bound.

    Args:
        options: of a push, a child or a cron.
        depends_on_max: most dependencies of one job.

    Raises:
        FieldTooLarge: the text names the field and the bound.
    """
    for field in _KEYS:
        _check_text(field, getattr(options, field))
    tags = options.tags or ()
    if len(tags) > TAGS_MAX:
        raise FieldTooLarge(field="tags", size=f"{len(tags)} tags", limit=TAGS_MAX)
    for tag in tags:
        _check_text("tags", tag)
    count = len(set(options.depends_on or ()))
    if count > depends_on_max:
        raise FieldTooLarge(field="depends_on", size=f"{count} ids", limit=depends_on_max)


def _check_text(field: str, text: str | None) -> None:
    if text is not None and len(text.encode()) > TEXT_BYTES_MAX:
        size = f"{len(text.encode())} bytes"
        raise FieldTooLarge(field=field, size=size, limit=f"{TEXT_BYTES_MAX} bytes")
