"""What the machine says about the server's processes, from `/proc`.

Owns the reading of memory and processor figures. They are for people; nothing is decided by them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MIB: Final = 1024 * 1024
_TITLE: Final = b"flashq"


class Machine:
    """The machine as this gateway sees it."""

    def __init__(self) -> None:
        #: busy and all jiffies at the last look
        self._last = _jiffies()
        self._cpu_percent = 0.0

    def figures(self) -> dict[str, Any]:
        """Return memory of all processes of this server, and the machine's processor load since
        the last look."""
        total = _memory_total()
        used = sum(_resident_bytes(pid) for pid in _server_pids())
        return {
            "memory_used_mb": round(used / _MIB, 1),
            "memory_total_mb": round(total / _MIB, 1),
            "memory_percent": round(100 * used / total, 2) if total else 0.0,
            "cpu_percent": self._cpu(),
            "process_id": os.getpid(),
        }

    def _cpu(self) -> float:
        busy, everything = _jiffies()
        old_busy, old_everything = self._last
        if everything > old_everything:
            share = (busy - old_busy) / (everything - old_everything)
            self._cpu_percent = round(100 * share, 1)
            self._last = busy, everything
        return self._cpu_percent


def _jiffies() -> tuple[int, int]:
    with suppress(OSError, ValueError, IndexError):
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(fields) - fields[3] - fields[4], sum(fields)
    return 0, 0


def _memory_total() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _server_pids() -> set[int]:
    """Return this process and those that the same supervisor has started."""
    parent = os.getppid()
    pids = {os.getpid()}
    with suppress(OSError):
        for text in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{text}/cmdline").read_bytes().startswith(_TITLE):
                    pids.add(int(text))
    return pids


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
