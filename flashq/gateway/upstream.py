"""The gateway's conversation with the router, without any I/O.

Owns correlation, routing, repeats, deadlines, heartbeats and leases of everything that comes in
through the doors; bodies pass through as bytes. The shell (`bridge`) owns socket and clock:

    opened(now)                   a fresh socket is there
    ask(ask, holder, done, now)   -> a `Pending`; `done` is called with the reply, once
    receive(frames, now)          a message arrived
    tick(now)                     time went by; `next_deadline()` says when it matters next
    data_to_send()                -> messages to send now

Time is monotonic milliseconds and an argument. It keeps the same promises as a client's connection
(`flashq.client.connection`), for many sessions at once:

* A request that changes state is numbered in a session, and is repeated under the same number
  whenever its answer may have got lost. A shard never carries it out twice.
* "Nothing happened" errors (busy, starting, ...) are repeated with backoff until the deadline.
* A holder's sessions live as long as it does. When it is gone, its jobs and pulls go back at once;
  a delivery that nobody waits for any more is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from flashq.errors import (
    AuthenticationRequired,
    BadMessage,
    Busy,
    ConfigError,
    FlashQError,
    InvalidRequest,
    JobNotFound,
    LeaseLost,
    MessageTooLarge,
    SessionExpired,
    ShuttingDown,
    error_from,
)
from flashq.gateway.asking import Ask, MsgpackOutline
from flashq.gateway.lanes import Holder, Lane, Lanes
from flashq.gateway.pending import Done, Pending, PendingTable
from flashq.gateway.subscribing import Ready, Subscription
from flashq.gateway.tickets import Tickets
from flashq.protocol.codec import decode, encode, encode_msgpack, error_reply
from flashq.protocol.framing import (
    DELIVERY,
    HEADER_BYTES,
    JSON,
    NOTICE,
    REPLY,
    ROUTE_ROUTER,
    pack_header,
    pairs,
)
from flashq.protocol.leases import HandedOut, Release, Withdraw
from flashq.protocol.registry import BY_WORD
from flashq.protocol.sessions import (
    About,
    Auth,
    EventNotice,
    GapNotice,
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    Notice,
    ShardNotice,
    Subscribe,
    Unsubscribe,
)

SETUP_MS: Final = 2000
"""How long hello and auth may take together before another socket is tried."""
SETUP_RETRY_MS: Final = 200
UNANSWERED_HEARTBEATS_MAX: Final = 2
PAIRS_PER_MESSAGE_MAX: Final = 512
MESSAGE_BYTES_TARGET: Final = 1024 * 1024
"""Pending pairs share a message up to this size; a larger single one goes by itself."""

_OK: Final = (b"\xa2ok\xc3", b'"ok":true')
"""How a successful reply goes on behind its first byte: MessagePack, JSON."""

_SUBSCRIBE: Final = "SUBSCRIBE"
_Told = EventNotice | GapNotice


class _Beat(NamedTuple):
    """A heartbeat under way: of which session (None: to the router), and the leases it named."""

    lane: Lane | None
    named: dict[int, int]


class _Verdict(Struct):
    ok: bool = False
    error: str = ""
    code: str = "error"
    retryable: bool = False


class Upstream:
    """The state of the conversation.

    Args:
        new_session: gives 16 fresh random bytes.
        shard_count: how many shards the server has.
        client: who this is, for people who look at the server.
        token: shown to the router, where it asks for one.
        on_notice: takes what the subscriptions bring: an event or a gap.
        on_interrupted: called when events may be missing, because the connection was lost.
    """

    def __init__(
        self,
        new_session: Callable[[], bytes],
        shard_count: int,
        *,
        client: str = "",
        token: str | None = None,
        on_notice: Callable[[_Told], None] | None = None,
        on_interrupted: Callable[[], None] | None = None,
    ) -> None:
        self._shard_count: Final = shard_count
        self._client: Final = client
        self._token: Final = token
        self._notify: Final = on_notice
        self._interrupted: Final = on_interrupted
        self._new_session: Final = new_session
        self._session: Final = new_session()
        #: the answer to the last hello; None until the first
        self.server: HelloReply | None = None
        #: why this gateway cannot work with that server
        self.refused: FlashQError | None = None
        #: whether requests may be sent
        self.ready = False
        #: whether the shell has to open another socket, because the router does not answer
        self.must_reopen = False
        self._closing = False
        self._corr = 0
        self._tickets: Final = Tickets(new_session())
        self._pending: Final = PendingTable()
        self._lanes: Final = Lanes(new_session)
        #: headers and bodies of the conversation's own: hello, auth, heartbeats
        self._control: list[bytes] = []
        #: the hello or auth under way, and when it is given up or said again
        self._setup_corr = 0
        self._setup_word = ""
        self._setup_at: int | None = None
        self._heartbeat_at: int | None = None
        #: heartbeats without an answer yet
        self._beats: dict[int, _Beat] = {}
        #: those to the router since its last answer
        self._unanswered = 0
        #: of each shard, as the router told it last; 0 for one that is not ready
        self.epochs: list[int] = []
        #: by queue
        self._subscriptions: dict[str, Subscription] = {}

    # --- what the shell asks

    @property
    def outstanding(self) -> int:
        """How many requests have no outcome yet."""
        return len(self._pending)

    def next_deadline(self) -> int | None:
        """Return when `tick` is needed next."""
        times = (self._setup_at, self._heartbeat_at, self._pending.next_deadline())
        return min((at for at in times if at is not None), default=None)

    # --- requests

    def ask(self, ask: Ask, holder: Holder | None, done: Done | None, now: int) -> Pending:
        """Take on a request.

        Args:
            ask: the request.
            holder: the connection that asks; what it pulls is then held until it is gone. Without
                one a delivered job has a time of its own (its `stall_timeout`).
            done: called with the reply, sooner or later, and once, unless it is abandoned.

        Returns:
            What `abandon` takes.

        Raises:
            InvalidRequest: it does not say for which shard it is.
            MessageTooLarge: it is.
            Busy, ShuttingDown: nothing is taken on at present.
        """
        route = ask.route(self._shard_count)
        if self._pending.is_full:
            raise Busy(detail=f"the gateway has {self.outstanding} requests outstanding")
        if self._closing:
            raise ShuttingDown
        names = holder is not None and self._lanes.name_leases(ask, holder, route)
        ticket = self._tickets.give(ask, holder)
        if self.server is not None and len(ask.body) > self.server.message_bytes_max:
            raise MessageTooLarge
        self._corr = corr = self._corr + 1
        pending = Pending(ask, holder, route, done, corr)
        pending.names_leases = names
        pending.ticket = ticket
        if ask.is_pull:
            if holder is not None:  # without one, the lease has a time of its own
                pending.lane = lane = self._lanes.park(holder, route)
                pending.n = lane.number()
        elif ask.command.mutates:
            pending.lane = lane = self._lanes.own(route)
            pending.n = lane.number()
        if holder is not None and ask.command.waits:
            holder.waiting.add(corr)
        self._pending.add(pending, now)
        return pending

    def abandon(self, pending: Pending, now: int) -> None:
        """Nobody waits for a request's outcome any more. One that waits for something is taken
        back, and jobs that it still brings go back; a change that was taken on is still carried
        out."""
        pending.done = None
        if pending.ask.command.waits:
            self._remove(pending)
            if pending.ticket and pending.sent and not self._closing:
                self._enqueue_own(Withdraw(ticket=pending.ticket), pending.route, now)

    def leave(
        self, holder: Holder, now: int, *, is_lost: bool = False, unsent: Collection[int] = ()
    ) -> None:
        """Give back at once what a connection that is gone holds and waits for.

        Args:
            is_lost: it ended without a goodbye, so the jobs that it was sent count as lost.
            unsent: ids of jobs that it holds and was never sent.
        """
        lost = {
            lane: [job_id for job_id in lane.leases if is_lost and job_id not in unsent]
            for lane in holder.lanes.values()
        }
        lanes = self._lanes.leave(holder)
        for corr in sorted(holder.waiting):
            pending = self._pending.get(corr)
            assert pending is not None, "a request that ended is still said to wait"
            self.abandon(pending, now)
        for lane in lanes:
            self._enqueue_own(Goodbye(session=lane.session, lost=lost[lane]), lane.route, now)

    def give_back(self, body: bytes, now: int, *, json: bool) -> None:
        """Return the jobs of a reply to their queue, because its asker was gone when it came."""
        leases = decode(body, HandedOut, json=json).leases()
        self._lanes.settle(job_id for job_id, _ in leases)
        self._give_back(leases, now)

    def _give_back(self, leases: Iterable[tuple[int, int]], now: int) -> None:
        """Return delivered jobs to their queue, uncounted, because nobody took them over."""
        found = dict(leases)
        if found and not self._closing:
            release = Release(ids=[*found], tokens=[*found.values()])
            self._enqueue_own(release, next(iter(found)) % self._shard_count, now)

    def _enqueue_own(
        self,
        request: Goodbye | Release | Subscribe | Withdraw,
        route: int,
        now: int,
        done: Done | None = None,
    ) -> Pending:
        """Send a request of the gateway's own."""
        word = str(request.__struct_config__.tag)
        ask = Ask(BY_WORD[word], encode_msgpack(request), MsgpackOutline(cmd=word), json=False)
        self._corr = corr = self._corr + 1
        pending = Pending(ask, None, route, done, corr)
        self._pending.add(pending, now)
        return pending

    def _remove(self, pending: Pending) -> None:
        if not self._pending.remove(pending):
            return
        lane, holder = pending.lane, pending.holder
        if lane is not None:
            lane.end(pending.n)
            if lane.holder is not None:
                lane.parked -= 1
        if holder is not None:
            holder.waiting.discard(pending.corr)

    def _finish(self, pending: Pending, body: bytes, *, ok: bool) -> None:
        self._remove(pending)
        if pending.done is not None:
            pending.done(body, ok)

    def _fail(self, pending: Pending, error: FlashQError) -> None:
        self._finish(pending, encode(error_reply(error), json=pending.ask.json), ok=False)

    # --- sending

    def data_to_send(self) -> list[list[bytes]]:
        """Return the messages to send now: all that is pending, in as few messages as sensible."""
        if not self._control and not (self.ready and self._pending.has_unsent):
            return []
        messages: list[list[bytes]] = []
        frames, self._control = self._control, []
        size = 0
        while self.ready and (pending := self._pending.next_unsent()) is not None:
            body = self._stamped(pending)
            if body is None:
                continue
            if frames and (
                size + len(body) > MESSAGE_BYTES_TARGET or len(frames) >= 2 * PAIRS_PER_MESSAGE_MAX
            ):
                messages.append(frames)
                frames, size = [], 0
            frames += (pack_header(pending.flags, pending.route, pending.corr), body)
            size += len(body)
        if frames:
            messages.append(frames)
        return messages

    def _stamped(self, pending: Pending) -> bytes | None:
        """Return what is sent of a request now; None if it must not be sent."""
        lane = pending.lane
        pending.last_error = None
        if lane is None:
            pending.sent += 1
            return pending.body
        if not pending.sent:
            pending.session = lane.session
        elif pending.session != lane.session:
            # The shard has forgotten whether the copy before this one was carried out.
            self._fail(pending, SessionExpired())
            return None
        pending.sent += 1
        return lane.stamp(pending.body, pending.n, json=pending.ask.json)

    # --- replies

    def receive(self, frames: Sequence[bytes], now: int) -> None:
        """Take in one message.

        Raises:
            BadMessage: it is not flashq's.
        """
        for head, body in pairs(frames):
            if len(head) < HEADER_BYTES:
                raise BadMessage(detail=f"header of {len(head)} bytes, expected {HEADER_BYTES}")
            flags, corr = head[1], int.from_bytes(head[4:HEADER_BYTES], "big")
            if flags & REPLY:
                pending = self._pending.get(corr)
                if pending is None:
                    self._on_other_reply(flags, corr, body, now)
                elif body.startswith(_OK, 1):
                    self._on_success(pending, flags, body)
                else:
                    self._on_refusal(pending, flags, body, now)
            elif flags & NOTICE:
                self._on_notice(body)

    def _on_success(self, pending: Pending, flags: int, body: bytes) -> None:
        if not flags & DELIVERY:
            self._lanes.settle(pending.ask.ends_leases_of())
        elif pending.lane is not None:
            delivered = decode(body, HandedOut, json=pending.ask.json)
            self._lanes.take(pending.lane, delivered.leases())
        self._finish(pending, body, ok=True)

    def _on_refusal(self, pending: Pending, flags: int, body: bytes, now: int) -> None:
        """Take in a reply that does not begin like a success."""
        verdict = decode(body, _Verdict, json=pending.ask.json)
        if verdict.ok:
            self._on_success(pending, flags, body)
            return
        error = error_from(verdict.code, verdict.error)
        lane = pending.lane
        if isinstance(error, SessionExpired) and lane is not None and pending.sent <= 1:
            # Its only copy was not carried out, so it can safely be a new request.
            if pending.session == lane.session:
                lane.renew(self._new_session())
            lane.end(pending.n)
            pending.n = lane.number()
            pending.sent = 0
            self._pending.enqueue(pending)
        elif verdict.retryable:
            self._pending.refused(pending, error, now)
        elif isinstance(error, AuthenticationRequired) and self._token is not None:
            # The router is another one, to which the token has not been shown yet. This copy was
            # not carried out.
            pending.sent -= 1
            self._pending.enqueue(pending)
            if self.ready:
                self._set_up(now)
        elif isinstance(error, InvalidRequest) and pending.ask.command.word == _SUBSCRIBE:
            # The same, without tokens: it has not had the hello yet.
            self._pending.refused(pending, error, now)
            if self.ready:
                self._set_up(now)
        elif isinstance(error, LeaseLost) and pending.names_leases:
            self._lanes.settle(pending.ask.ends_leases_of())
            self._fail(pending, pending.ask.not_held())
        else:
            if isinstance(error, JobNotFound | LeaseLost):
                self._lanes.settle(pending.ask.ends_leases_of())
            self._finish(pending, body, ok=False)

    def _on_other_reply(self, flags: int, corr: int, body: bytes, now: int) -> None:
        if corr == self._setup_corr:
            self._on_setup_reply(body, now)
        elif corr in self._beats:
            self._on_heartbeat_reply(self._beats.pop(corr), body, now)
        elif flags & DELIVERY:
            # Its request is gone, with its asker or by its time-out; or this is a second copy.
            leases = decode(body, HandedOut, json=bool(flags & JSON)).leases()
            self._give_back((pair for pair in leases if not self._lanes.holds(*pair)), now)

    # --- hello and auth

    def opened(self, now: int) -> None:
        """Begin on a fresh socket: say hello, and repeat everything once it is answered."""
        self.must_reopen = False
        self._control.clear()
        self._beats.clear()
        self._unanswered = 0
        self._set_up(now)

    def _set_up(self, now: int) -> None:
        self.ready = False
        self._heartbeat_at = None
        self._setup_at = now + SETUP_MS
        for known in self._subscriptions.values():
            known.is_confirmed = False
            self._ask_for(known, now)
        if self._token is None:
            self._say_hello()
        else:
            self._setup_word = "AUTH"
            self._setup_corr = self._say(ROUTE_ROUTER, Auth(token=self._token))

    def _say_hello(self) -> None:
        self._setup_word = "HELLO"
        hello = Hello(session=self._session, client=self._client or None)
        self._setup_corr = self._say(ROUTE_ROUTER, hello)

    def _say(self, route: int, request: Struct) -> int:
        self._corr = corr = self._corr + 1
        self._control += (pack_header(0, route, corr), encode_msgpack(request))
        return corr

    def _on_setup_reply(self, body: bytes, now: int) -> None:
        self._setup_corr = 0
        verdict = decode(body, _Verdict)
        if not verdict.ok:
            self._setup_at = now + SETUP_RETRY_MS
            if not verdict.retryable:
                self.refused = error_from(verdict.code, verdict.error)
        elif self._setup_word == "AUTH":
            self._say_hello()
        else:
            self._greeted(decode(body, HelloReply), now)

    def _greeted(self, server: HelloReply, now: int) -> None:
        if server.shard_count != self._shard_count:
            self.refused = ConfigError(
                f"shards is {self._shard_count}, but the server has {server.shard_count}"
            )
            return
        again = self.server is not None
        self.server = server
        self._setup_at = None
        self._heartbeat_at = now + server.heartbeat_interval
        self.ready = True
        self._note_epochs(server.epochs)
        self._pending.enqueue_all()
        if again and self._subscriptions and self._interrupted is not None:
            self._interrupted()

    # --- time

    def tick(self, now: int) -> None:
        """Act on everything that is due."""
        for pending, error in self._pending.expired(now):
            self._fail(pending, error)
        self._pending.retry_due(now)
        if self._setup_at is not None and self._setup_at <= now:
            if self._setup_corr:
                self._disconnect()
            else:
                self._set_up(now)
        elif self._heartbeat_at is not None and self._heartbeat_at <= now:
            if self._unanswered >= UNANSWERED_HEARTBEATS_MAX:
                self._disconnect()
            else:
                self._beat(now)

    def _disconnect(self) -> None:
        """The router does not answer: what is outstanding waits for another socket."""
        self.ready = False
        self.must_reopen = True
        self._setup_at = None
        self._heartbeat_at = None

    def _beat(self, now: int) -> None:
        assert self.server is not None
        self._heartbeat_at = now + self.server.heartbeat_interval
        self._beats.clear()  # what is unanswered is a whole interval old
        self._unanswered += 1
        for known in self._subscriptions.values():
            if not known.is_confirmed:  # the router had no room for it
                self._ask_for(known, now)
        self._beats[self._say(ROUTE_ROUTER, Heartbeat(session=self._session))] = _Beat(None, {})
        for lane in self._lanes.live():
            named = dict(lane.leases)
            assert lane.holder is not None, "nothing is handed to the gateway itself"
            beat = Heartbeat(
                session=lane.session,
                leases=[*named],
                tokens=[*named.values()],
                about=About(name=lane.holder.name),
            )
            self._beats[self._say(lane.route, beat)] = _Beat(lane, named)

    def _on_heartbeat_reply(self, beat: _Beat, body: bytes, now: int) -> None:
        if beat.lane is None:
            self._unanswered = 0
        verdict = decode(body, _Verdict)
        if not verdict.ok:
            if verdict.code == AuthenticationRequired.code and self.ready:
                self._set_up(now)  # the router is another one
            return  # else a shard that is starting, say: the next heartbeat asks again
        reply = decode(body, HeartbeatReply)
        if beat.lane is not None:
            if reply.lost:
                settling = {job_id for one in self._pending for job_id in one.ask.ends_leases_of()}
                self._lanes.lose(beat.lane, reply.lost, beat.named, settling)
        elif self.server is None or reply.boot != self.server.boot or not reply.known:
            self._set_up(now)
        else:
            self._note_epochs(reply.epochs)

    def _note_epochs(self, epochs: Sequence[int]) -> None:
        for shard, epoch in enumerate(epochs):
            self._note_epoch(shard, epoch)

    def _note_epoch(self, shard: int, epoch: int) -> None:
        """A shard under a new epoch has forgotten what was parked or half done: repeat it."""
        known = self.epochs
        known += [0] * (shard + 1 - len(known))
        if epoch in (0, known[shard]):
            return  # not ready yet, or no news
        known[shard] = epoch
        lost = [one for one in self._pending if one.route == shard and one.sent]
        for pending in sorted(lost, key=lambda one: one.corr):
            self._pending.enqueue(pending)

    # --- events

    def subscribe(self, queue: str, ready: Ready, now: int) -> None:
        """Ask for a queue's events (`*` for all), again after every reconnect.

        Args:
            queue: whose.
            ready: called once they come, or when the router has not said so in time; not after
                `unsubscribe`.
        """
        known = self._subscriptions.get(queue)
        if known is None:
            known = self._subscriptions[queue] = Subscription(queue)
            self._ask_for(known, now)
        known.tell(ready)

    def _ask_for(self, known: Subscription, now: int) -> None:
        if known.pending is None:
            request = Subscribe(queue=known.queue, events=["*"])
            known.pending = self._enqueue_own(request, ROUTE_ROUTER, now, known.answered)

    def unsubscribe(self, queue: str) -> None:
        """Ask for a queue's events no more."""
        known = self._subscriptions.pop(queue, None)
        if known is None:
            return
        if known.pending is not None:
            self._remove(known.pending)
        if self.ready:
            self._say(ROUTE_ROUTER, Unsubscribe(queue=queue))

    def _on_notice(self, body: bytes) -> None:
        notice: Any = decode(body, Notice)  # type: ignore[arg-type]
        if isinstance(notice, ShardNotice):
            self._note_epoch(notice.shard, notice.epoch)
        elif isinstance(notice, EventNotice | GapNotice) and self._notify is not None:
            self._notify(notice)

    # --- the end

    def close(self) -> None:
        """Take no more requests, and tell the router that nobody is here any more."""
        self._closing = True
        if self.ready:
            self._say(ROUTE_ROUTER, Goodbye(session=self._session))
