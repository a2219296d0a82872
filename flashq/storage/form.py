"""In which form the logs and checkpoints of shards lie in a storage.

To a storage they are bytes, and nothing in them tells a change of their form from damage. So one
part of the coordinator's names the form, from the first commit on; what has another one, or does
not say, is refused before anything of it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from flashq.errors import ConfigError
from flashq.protocol.records import STORED_FORM
from flashq.storage.port import Put, StoredShard

FORM_PART: Final = "form"
"""The part's name. Its content is a number in ASCII."""


def form_part() -> Put:
    """Return what names the form in which this flashq stores."""
    return Put(FORM_PART, b"%d" % STORED_FORM)


def check_form(what: str, shards: Sequence[StoredShard], parts: Mapping[str, bytes]) -> None:
    """Refuse what this flashq cannot read.

    Args:
        what: is looked at, for the text.
        shards: what there is of each; nothing is in any form while no shard has begun.
        parts: the coordinator's.

    Raises:
        ConfigError: it was written in another form.
    """
    has_begun = any(shard.incarnation or shard.last_seq for shard in shards)
    found = parts.get(FORM_PART)
    if found is None and not has_begun:
        return
    known = b"%d" % STORED_FORM
    if found != known:
        form = "an older form" if found is None else f"form {found.decode('ascii', 'replace')}"
        raise ConfigError(
            f"{what} has logs and checkpoints in {form}, and this flashq reads form "
            f"{STORED_FORM} alone; start the version of flashq that wrote it, or begin with an "
            "empty storage"
        )
