"""What the router adds to a header, and gets back with the reply: the way home.

A tail begins with one byte that says what for, then the pair's account (see `Lane`); behind that
stands the name of a client's connection, before it for a read its number (see `reads`), or the
number of a gather.
"""

from __future__ import annotations

from typing import Final

from flashq.protocol.framing import HEADER_BYTES
from flashq.router.outbox import ACCOUNT_BYTES
from flashq.router.reads import NUMBER_BYTES

TO_CLIENT: Final = 0
TO_GATHER: Final = 1
TO_READER: Final = 2
CLIENT: Final = bytes([TO_CLIENT])
GATHER: Final = bytes([TO_GATHER])
READER: Final = bytes([TO_READER])

KIND_AT: Final = HEADER_BYTES
ACCOUNT_AT: Final = HEADER_BYTES + 1
HOME_AT: Final = ACCOUNT_AT + ACCOUNT_BYTES
READER_AT: Final = HOME_AT + NUMBER_BYTES
"""Where in a reply's header kind and account stand, the way home, and a reader's name."""
