"""How many file descriptors this process may have."""

from __future__ import annotations

import resource
from typing import Final

ENOUGH: Final = 1_000_000
"""What stands for any number."""


def allow(wanted: int) -> int:
    """Ask the kernel for as many descriptors as are wanted, within what it lets this user have.

    Returns:
        How many the process may have now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return ENOUGH if soft == resource.RLIM_INFINITY else soft
