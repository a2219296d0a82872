"""Which names queues may have.

Owns the one rule for queue names; whoever takes a name from a client asks here.
"""

from __future__ import annotations

import re
from typing import Final

from flashq.errors import QueueNameEmpty, QueueNameInvalid, QueueNameTooLong

_ALLOWED: Final = re.compile(r"[\w.-]+")
"""Letters and digits of any script, underscore, dot and hyphen."""


def check_queue_name(name: str, *, bytes_max: int = 256) -> None:
    """Refuse what cannot be a queue's name.

    Args:
        name: the name as the client gave it.
        bytes_max: its longest form in UTF-8.

    Raises:
        QueueNameEmpty, QueueNameTooLong, QueueNameInvalid: in this order of checks.
    """
    if not name:
        raise QueueNameEmpty
    if len(name) > bytes_max or len(name.encode()) > bytes_max:
        raise QueueNameTooLong
    if _ALLOWED.fullmatch(name) is None:
        raise QueueNameInvalid
