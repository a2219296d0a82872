"""`tests.simulation.backlog`: what waits for clients that read slowly."""

from __future__ import annotations

from tests.simulation.backlog import RETRY_MS, RETRY_MS_MAX, Backlog, Sent

A, B = b"a", b"b"


class Clients:
    """Two clients that take so many messages, and what they got."""

    def __init__(self, bytes_max: int = 1000) -> None:
        self.room = {A: 0, B: 100}
        self.got: list[tuple[bytes, bytes]] = []
        self.given_up: list[tuple[bytes, bytes, bool]] = []
        self.unread: dict[bytes, int] = {}
        self.backlog = Backlog(bytes_max, self.send, self.give_up, self.unread.__setitem__)

    def send(self, to: bytes, frames: list[bytes]) -> Sent:
        """Take one message, if there is room."""
        if to not in self.room:
            return Sent.GONE
        if not self.room[to]:
            return Sent.FULL
        self.room[to] -= 1
        self.got.append((to, frames[0]))
        return Sent.SENT

    def give_up(self, to: bytes, frames: list[bytes], now_ms: int, *, gone: bool) -> None:
        """Note what nobody will get."""
        assert now_ms >= 0
        self.given_up.append((to, frames[0], gone))


def test_who_reads_gets_everything_at_once() -> None:
    """Nothing is kept, and nobody needs to look again."""
    clients = Clients()
    clients.backlog.offer(B, [b"1", b"x"], 0)
    assert clients.got == [(B, b"1")]
    assert clients.backlog.retry_at_ms is None


def test_what_does_not_fit_waits_in_order_and_holds_up_nobody_else() -> None:
    """
    1. A takes nothing; B goes on.
    2. A reads one message: it gets the oldest, and a newer one still stands behind the rest.
    3. A reads again, and gets the rest in order.
    """
    clients = Clients()
    for number in (b"1", b"2"):
        clients.backlog.offer(A, [number], 0)
        clients.backlog.offer(B, [number], 0)
    assert clients.got == [(B, b"1"), (B, b"2")]
    clients.room[A] = 1
    clients.backlog.retry(RETRY_MS - 1)
    assert len(clients.got) == 2
    clients.backlog.retry(RETRY_MS)
    clients.room[A] = 5
    clients.backlog.offer(A, [b"3"], RETRY_MS)
    clients.backlog.retry(2 * RETRY_MS)
    assert clients.got[2:] == [(A, b"1"), (A, b"2"), (A, b"3")]
    assert clients.backlog.retry_at_ms is None
    clients.backlog.offer(A, [b"4"], 2 * RETRY_MS)
    assert clients.got[-1] == (A, b"4")


def test_a_client_that_never_reads_is_looked_at_ever_more_seldom() -> None:
    """An idle router does not spin on its account; one that reads again is served soon."""
    clients = Clients()
    clients.backlog.offer(A, [b"1"], 0)
    pauses, now_ms = [], 0
    for _ in range(7):
        assert clients.backlog.retry_at_ms is not None
        pauses.append(clients.backlog.retry_at_ms - now_ms)
        now_ms = clients.backlog.retry_at_ms
        clients.backlog.retry(now_ms)
    assert pauses == [5, 10, 20, 40, 80, RETRY_MS_MAX, RETRY_MS_MAX]
    clients.backlog.offer(A, [b"2"], now_ms)
    clients.room[A] = 1
    now_ms += RETRY_MS_MAX
    clients.backlog.retry(now_ms)
    assert clients.backlog.retry_at_ms == now_ms + RETRY_MS


def test_what_is_kept_is_bounded_in_bytes() -> None:
    """Above the bound messages are given up; how much is kept is told. A single message is kept
    whatever its size."""
    clients = Clients(bytes_max=100)
    clients.backlog.offer(A, [b"0" * 150], 0)
    assert clients.unread == {A: 150}
    clients.backlog.offer(A, [b"1"], 0)
    assert clients.given_up == [(A, b"1", False)]
    clients.room[A] = 1
    clients.backlog.retry(RETRY_MS)
    assert clients.unread == {A: 0}
    for name, kept in ((b"2" * 30, 30), (b"3" * 30, 60), (b"4" * 40, 100), (b"5", 100)):
        clients.backlog.offer(A, [name], RETRY_MS)
        assert clients.unread == {A: kept}
    assert [name[:1] for _, name, _ in clients.given_up] == [b"1", b"5"]


def test_what_waits_for_a_client_that_vanishes_is_given_up_as_gone() -> None:
    """So that jobs in it go back; also what is offered to it later."""
    clients = Clients()
    clients.backlog.offer(A, [b"1"], 0)
    clients.backlog.offer(A, [b"2"], 0)
    del clients.room[A]
    clients.backlog.retry(RETRY_MS)
    clients.backlog.offer(A, [b"3"], RETRY_MS)
    assert clients.given_up == [(A, b"1", True), (A, b"2", True), (A, b"3", True)]
    assert clients.backlog.retry_at_ms is None
