"""`flashq.router.front`: how the descriptors of a process are divided among its doors."""

from __future__ import annotations

import pytest

from flashq.router.front import LOCAL_CONNECTIONS_MAX, shares


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [
        (65_536, (10_000, LOCAL_CONNECTIONS_MAX)),
        (4096, (4096 - 256 - LOCAL_CONNECTIONS_MAX, LOCAL_CONNECTIONS_MAX)),
        (1024, (384, 384)),
        (256, (1, 1)),
    ],
)
def test_a_flood_at_the_port_leaves_the_unix_socket_its_own(
    descriptors: int, expected: tuple[int, int]
) -> None:
    """Together they never take more than there are beside the router's own."""
    remote, local = shares(descriptors, 256, 10_000)
    assert (remote, local) == expected
    if descriptors >= 258:
        assert remote + local <= descriptors - 256
