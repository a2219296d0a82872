"""One client's conversation with a flashq server, without any I/O.

Owns request numbers, routing, repeats, deadlines, heartbeats and leases. A shell (`sync_client`,
`async_client`) owns the socket and the clock, and drives this object:

    opened(now)                 a fresh socket is there
    request(call, now, ms)      -> corr; its outcome comes as a `Completed` event
    receive(frames, now)        a message arrived
    tick(now)                   time went by; `next_deadline()` says when it matters next
    data_to_send()              -> messages to send now
    events()                    -> what happened; after `data_to_send`, which can cause some

Time is monotonic milliseconds and an argument; session ids come from a callable. The rules:

* A request that changes state carries the session and a number, and is repeated under the same
  number whenever an answer may have got lost: after a reconnect, a restarted router, or a new epoch
  of its shard. The server never carries it out twice.
* "Nothing happened" errors (busy, starting, ...) are repeated with backoff until the deadline.
* A delivery that nobody waits for any more is given back.
* What ends a job (an ack, say) is repeated until it is answered or its time is up, also when its
  caller has gone. If nothing is known of it then, heartbeats soon no longer name the job's lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from flashq.client.calls import DELIVERING, Call, prepare, route_of, verdict_of
from flashq.client.greeting import Greeting
from flashq.client.happenings import (
    AnyHappening,
    Completed,
    Connected,
    Disconnected,
    EventsInterrupted,
    LeasesLost,
    Malformed,
    NoticeReceived,
    ServerClosing,
    SubscriptionRefused,
    TokenRefused,
)
from flashq.client.heartbeats import UNANSWERED_MAX, Beat, Heartbeats
from flashq.client.leases import HeldLeases
from flashq.client.requests import CONNECT_TIMEOUT_MS, Request, RequestTable, cut_off
from flashq.client.results import AnyNotice, Delivered, Job
from flashq.client.subscriptions import Asked
from flashq.errors import (
    AuthenticationRequired,
    BadMessage,
    ConnectionClosed,
    FlashQError,
    JobNotFound,
    LeaseLost,
    MessageTooLarge,
    OutcomeUnknown,
    SessionExpired,
    ShardUnavailable,
)
from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import (
    DELIVERY,
    NOTICE,
    REPLY,
    ROUTE_ROUTER,
    pack_header,
    pairs,
    unpack_header,
)
from flashq.protocol.leases import Release
from flashq.protocol.sessions import (
    Auth,
    ClosingNotice,
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    ShardNotice,
    Subscribe,
)

REQUESTS_MAX: Final = 65_536
REQUESTS_BYTES_MAX: Final = 256 * 1024 * 1024
PAIRS_PER_MESSAGE_MAX: Final = 512
MESSAGE_BYTES_TARGET: Final = 1024 * 1024
"""Pending pairs share a message up to this size; a larger single one goes by itself."""

RELEASE_TIMEOUT_MS: Final = 30_000


_UNSETTLED: Final = (BadMessage, ConnectionClosed, OutcomeUnknown, SessionExpired, ShardUnavailable)
"""Errors of what ends a job after which its caller has done with the job, though it may be active
yet. A refusal for what the request says leaves the job with the caller, who can fail it instead."""


class Connection:
    """The state of one session.

    Args:
        new_session: gives 16 fresh random bytes.
        client: who this is, for people who look at the server.
        token: shown to the server before each hello.
        address: where the server is, for errors.
        connect_timeout_ms: how long a request waits for a server that was never reached.
        requests_max, requests_bytes_max: bounds on what is outstanding; above them a request
            ends with `Busy`.
    """

    def __init__(
        self,
        new_session: Callable[[], bytes],
        *,
        client: str = "",
        token: str | None = None,
        address: str = "the server",
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS,
        requests_max: int = REQUESTS_MAX,
        requests_bytes_max: int = REQUESTS_BYTES_MAX,
    ) -> None:
        self._new_session: Final = new_session
        self._client: Final = client
        self._token = token
        self.session = new_session()
        #: the answer to the last hello; None until the first
        self.server: HelloReply | None = None
        #: whether requests may be sent
        self._ready = False
        #: whether there is a socket
        self._open = False
        self._closing = False
        #: the goodbye to the router, while it is not answered
        self._farewell: int | None = None
        #: an error that every request gets, until another token or server
        self._refusal: FlashQError | None = None

        self._requests: Final = RequestTable(
            requests_max, requests_bytes_max, address=address, connect_timeout=connect_timeout_ms
        )
        #: pairs of the connection's own: hello, auth, heartbeats
        self._control: list[tuple[bytes, bytes]] = []
        self._happened: list[AnyHappening] = []

        self._greeting: Final = Greeting()
        self._leases: Final = HeldLeases()
        self._epochs: list[int] = []
        self._heartbeats: Final = Heartbeats()
        #: shards that may keep something for this session
        self._touched: set[int] = set()
        self._asked: Final = Asked()

    # --- stimuli

    def opened(self, now: int) -> None:
        """Begin on a fresh socket: say hello, and repeat everything once it is answered."""
        self._open = True
        self._control.clear()
        self._heartbeats.restart()
        self._set_up(now)

    def request(self, call: Call, now: int, timeout: int) -> int:
        """Take on a request.

        Args:
            call: what to send.
            timeout: ms until it ends with an error if there was no answer.

        Returns:
            The corr of its `Completed` event.
        """
        request = self._add(call, now, timeout)
        refusal = self._refusal if call.command.request is not Auth else None
        error = refusal or self._requests.objection()
        if error is not None:
            self._complete(request, None, error)
        else:
            self._requests.enqueue(request)
        return request.corr

    def abandon(self, corr: int) -> None:
        """Take note that nobody waits for a request any more.

        One that ends jobs goes on in silence, since its caller has done with them. Any other is
        forgotten; jobs that it still brings are given back.
        """
        request = self._requests.get(corr)
        if request is None:
            return
        if request.call.settles:
            request.silent = True
        else:
            self._requests.remove(request)

    def give_back(self, jobs: Iterable[Job], now: int) -> None:
        """Return delivered jobs to their queue, uncounted, because nobody took them over."""
        found = [job for job in jobs if job.token is not None]
        if found and not self._closing:
            release = Release(ids=[job.id for job in found], tokens=[job.token for job in found])
            request = self._add(prepare(release), now, RELEASE_TIMEOUT_MS)
            request.silent = True
            self._requests.enqueue(request)

    def use_token(self, token: str | None) -> None:
        """Show this token from now on."""
        self._token = token
        self._refusal = None
        if self._open and not self._ready:
            self._greeting.retry_at = 0

    def subscribe(self, queue: str, events: frozenset[str], now: int, timeout: int) -> int:
        """Ask for events of `queue` (`*` for all), in place of what was asked for it before.

        It is asked again after every reconnect until `unsubscribed`. One call for a queue must
        have ended before the next is made.
        """
        call = prepare(Subscribe(queue=queue, events=sorted(events)))
        request = self._add(call, now, timeout, corr=self._asked.corr_of(queue))
        self._asked.add(queue, request.corr, events)
        self._requests.enqueue(request)
        return request.corr

    def unsubscribed(self, queue: str) -> None:
        """Forget a subscription; the shell has sent UNSUBSCRIBE or will not."""
        self._asked.remove(queue)

    def receive(self, frames: Sequence[bytes], now: int) -> None:
        """Take in one message."""
        try:
            for head, body in pairs(frames):
                header = unpack_header(head)
                if header.flags & REPLY:
                    self._on_reply(header.flags, header.corr, body, now)
                elif header.flags & NOTICE:
                    self._on_notice(header.corr, body)
        except BadMessage as error:
            self._happened.append(Malformed(error.text))

    def tick(self, now: int) -> None:
        """Act on everything that is due."""
        for request, error in self._requests.expired(now):
            self._complete(request, None, error)
        self._requests.retry_due(now)
        if not self._open:
            return
        greeting = self._greeting
        if greeting.retry_at is not None and greeting.retry_at <= now:
            self._set_up(now)
        elif greeting.deadline is not None and greeting.deadline <= now:
            greeting.unanswered()
            self._disconnect("no answer to hello")
        elif (due := self._heartbeats.due) is not None and due <= now:
            self._beat(now)

    def close(self) -> None:
        """End the session: goodbye to the router and to every shard it touched.

        Everything outstanding ends with `ConnectionClosed`.
        """
        self._closing = True
        for request in self._requests.all():
            self._complete(request, None, cut_off(request))
        if self._open and self.server is not None:
            body = encode(Goodbye(session=self.session))
            for route in (*sorted(self._touched), ROUTE_ROUTER):
                self._farewell = self._say(route, body)
        self._heartbeats.due = None
        self._greeting.stop()
        self._refusal = ConnectionClosed("this client is closed")

    # --- instructions

    def data_to_send(self) -> list[list[bytes]]:
        """Return the messages to send now: all that is pending, in as few messages as sensible."""
        if not self._control and not (self._ready and self._requests.has_unsent):
            return []
        messages: list[list[bytes]] = []
        frames: list[bytes] = []
        size = 0
        for pair in self._control:
            frames += pair
        self._control.clear()
        largest = self.server.message_bytes_max if self.server else MESSAGE_BYTES_TARGET
        target = min(largest, MESSAGE_BYTES_TARGET)
        while self._ready and (request := self._requests.next_unsent()) is not None:
            body = request.body
            if len(body) > largest:
                self._complete(request, None, MessageTooLarge())
                continue
            if frames and (size + len(body) > target or len(frames) >= 2 * PAIRS_PER_MESSAGE_MAX):
                messages.append(frames)
                frames, size = [], 0
            request.route = route = route_of(request.call, self._shard_count)
            request.sent += 1
            request.beats = 0
            request.last_error = None
            if request.n is not None and route < self._shard_count:
                self._touched.add(route)
            frames.append(pack_header(0, route, request.corr))
            frames.append(body)
            size += len(body)
        if frames:
            messages.append(frames)
        return messages

    def events(self) -> list[AnyHappening]:
        """Return what has happened since the last call."""
        happened = self._happened
        if happened:
            self._happened = []
        return happened

    def next_deadline(self) -> int | None:
        """Return when `tick` is needed next, in ms of the monotonic clock; None for never."""
        due = self._requests.next_deadline()
        if self._open:
            for at in (self._greeting.next_deadline(), self._heartbeats.due):
                if at is not None and (due is None or at < due):
                    due = at
        return due

    @property
    def shard_count(self) -> int | None:
        """How many shards the server has; None before the first hello."""
        return self.server.shard_count if self.server else None

    @property
    def has_events(self) -> bool:
        """Whether `events` has something to tell."""
        return bool(self._happened)

    @property
    def outstanding(self) -> int:
        """How many requests have no outcome yet."""
        return len(self._requests)

    @property
    def refusal(self) -> FlashQError | None:
        """Why every request fails at once, as with a token that the server does not know."""
        return self._refusal

    @property
    def farewell_pending(self) -> bool:
        """Whether the router has yet to answer the goodbye."""
        return self._farewell is not None

    @property
    def leases_held(self) -> int:
        """How many jobs this session holds."""
        return len(self._leases)

    # --- requests

    def _add(self, call: Call, now: int, timeout: int, corr: int | None = None) -> Request:
        request = self._requests.add(call, self.session, now, timeout, corr)
        if call.settles:
            request.tokens = self._leases.tokens_of(call.settles, call.tokens)
        return request

    def _complete(self, request: Request, reply: Any, error: FlashQError | None) -> None:
        self._requests.remove(request)
        settles = request.call.settles
        if settles:
            if error is None or isinstance(error, JobNotFound | LeaseLost):
                self._leases.settle(settles, request.tokens)
            elif error.retryable or isinstance(error, _UNSETTLED):
                self._leases.leave(settles, request.tokens)
        if not request.silent:
            self._happened.append(Completed(request.corr, reply, error))

    @property
    def _shard_count(self) -> int:
        return self.server.shard_count if self.server else 0

    # --- replies

    def _on_reply(self, flags: int, corr: int, body: bytes, now: int) -> None:
        request = self._requests.get(corr)
        if request is None:
            self._on_other_reply(flags, corr, body, now)
            return
        verdict = verdict_of(body)
        error = verdict.error
        if error is not None:
            self._on_error(request, error, verdict.retryable, now)
        elif request.call.command.request in DELIVERING:
            try:
                delivered = decode(body, Delivered)
            except BadMessage as damage:
                self._complete(request, None, damage)
                return
            self._leases.take(delivered.all())
            self._complete(request, delivered, None)
        else:
            self._complete(request, body, None)

    def _on_error(self, request: Request, error: FlashQError, retryable: bool, now: int) -> None:
        if isinstance(error, SessionExpired) and request.n is not None and request.sent <= 1:
            # Its only copy was not carried out, so it can safely be a new request.
            if request.session == self.session:
                self._renew_session()
            self._requests.stamp(request, self.session)
            request.sent = 0
            self._requests.enqueue(request)
        elif retryable:
            self._requests.refused(request, error, now)
        elif isinstance(error, AuthenticationRequired) and self._token is not None:
            # The router is another one, to which the token has not been shown yet. This copy was
            # not carried out.
            request.sent -= 1
            self._requests.enqueue(request)
            self._show_again_if(error, now)
        else:
            self._complete(request, None, error)

    def _on_other_reply(self, flags: int, corr: int, body: bytes, now: int) -> None:
        if corr == self._greeting.corr:
            self._on_setup_reply(body, now)
        elif corr == self._farewell:
            self._farewell = None
        elif (beat := self._heartbeats.answered(corr)) is not None:
            self._on_heartbeat_reply(beat, body, now)
        elif (queue := self._asked.queue_of(corr)) is not None:
            error = verdict_of(body).error
            if error is not None:
                self._asked.remove(queue)
                self._happened.append(SubscriptionRefused(queue, error))
        elif flags & DELIVERY and verdict_of(body).error is None:
            # Its request timed out or was abandoned, or this is a second copy of its answer.
            delivered = decode(body, Delivered)
            stranded = (job for job in delivered.all() if not self._leases.holds(job))
            self.give_back(stranded, now)

    # --- hello, auth, session

    def _say(self, route: int, body: bytes) -> int:
        corr = self._requests.next_corr()
        self._control.append((pack_header(0, route, corr), body))
        return corr

    def _set_up(self, now: int) -> None:
        """Show the token, if there is one, and then say hello: a server that asks for tokens lets
        nobody say that before."""
        self._ready = False
        self._heartbeats.due = None
        self._say_setup(self._hello() if self._token is None else Auth(token=self._token), now)

    def _hello(self) -> Hello:
        return Hello(session=self.session, client=self._client or None)

    def _say_setup(self, request: Auth | Hello, now: int) -> None:
        self._greeting.say(request, self._say(ROUTE_ROUTER, encode(request)), now)

    def _on_setup_reply(self, body: bytes, now: int) -> None:
        greeting = self._greeting
        greeting.answered()
        self._requests.reached()
        verdict = verdict_of(body)
        error = verdict.error
        if error is None and greeting.is_hello:
            try:
                self.server = decode(body, HelloReply)
            except BadMessage as damage:
                error = damage
        if error is not None:
            is_without = isinstance(error, AuthenticationRequired) and self._token is None
            if not verdict.retryable and (is_without or not greeting.is_hello):
                self._refusal = error
                self._fail_all(error, but=())
                self._happened.append(TokenRefused())
                return
            greeting.refused(now)
            if not verdict.retryable:
                self._fail_all(error)
        elif not greeting.is_hello:
            self._say_setup(self._hello(), now)
        else:
            self._become_ready(now)

    def _become_ready(self, now: int) -> None:
        assert self.server is not None
        self._note_epochs(self.server.epochs)
        self._ready = True
        self._greeting.done()
        self._heartbeats.due = now + self.server.heartbeat_interval
        self._requests.enqueue_all()
        self._subscribe_again()
        self._happened.append(Connected(self.server))

    def _subscribe_again(self) -> None:
        for queue, corr, events in self._asked.all():
            if corr in self._requests:
                continue  # its first SUBSCRIBE is about to be repeated anyway
            body = encode(Subscribe(queue=queue, events=sorted(events)))
            self._control.append((pack_header(0, ROUTE_ROUTER, corr), body))
            self._happened.append(EventsInterrupted(queue))

    def _show_again_if(self, error: FlashQError, now: int) -> None:
        """Show the token to a router that has not seen it: another one than before."""
        if isinstance(error, AuthenticationRequired) and self._token is not None and self._ready:
            self._set_up(now)

    def _fail_all(self, error: FlashQError, but: tuple[type, ...] = (Auth,)) -> None:
        for request in self._requests.all():
            if request.call.command.request not in but:
                self._complete(request, None, error)

    def _renew_session(self) -> None:
        """Go on as a new session. What is outstanding under the old one stays there."""
        self.session = self._new_session()
        self._say(ROUTE_ROUTER, encode(self._hello()))  # a lost one shows in the next beat's answer
        self._subscribe_again()

    def _disconnect(self, reason: str) -> None:
        self._open = False
        self._ready = False
        self._greeting.answered()
        self._heartbeats.due = None
        self._happened.append(Disconnected(reason))

    # --- heartbeats and epochs

    def _beat(self, now: int) -> None:
        assert self.server is not None
        heartbeats = self._heartbeats
        if heartbeats.unanswered >= UNANSWERED_MAX:
            self._disconnect(f"{heartbeats.unanswered} heartbeats without an answer")
            return
        heartbeats.due = now + self.server.heartbeat_interval
        heartbeats.forget(now - self.server.session_timeout)
        self._repeat_unanswered()
        if self._leases.has_left:
            self._leases.let_go(self._being_settled())
        leases = self._leases.by_shard(self._shard_count)
        waited_on = {
            request.route
            for request in self._requests.waiting()
            if request.sent and request.route < self._shard_count
        }
        for route in (ROUTE_ROUTER, *sorted(waited_on | leases.keys())):
            named = leases.get(route, {})
            beat = Heartbeat(session=self.session, leases=[*named], tokens=[*named.values()])
            heartbeats.said(self._say(route, encode(beat)), Beat(route, now, named))

    def _repeat_unanswered(self) -> None:
        """Send again what ends jobs and has had no answer for some heartbeats."""
        for request in self._requests.all():
            if request.call.settles and request.sent and not request.queued:
                request.beats += 1
                if request.beats > UNANSWERED_MAX:
                    self._requests.enqueue(request)

    def _being_settled(self) -> set[int]:
        return {job_id for request in self._requests.all() for job_id in request.call.settles}

    def _on_heartbeat_reply(self, beat: Beat, body: bytes, now: int) -> None:
        error = verdict_of(body).error
        if error is not None:
            self._show_again_if(error, now)
            return  # a shard that is starting, say: the next heartbeat asks again
        reply = decode(body, HeartbeatReply)
        if beat.route == ROUTE_ROUTER:
            if self.server is not None and (reply.boot != self.server.boot or not reply.known):
                self._set_up(now)
            else:
                self._note_epochs(reply.epochs)
        elif reply.lost:
            lost = self._leases.lose(reply.lost, beat.named, self._being_settled())
            if lost:
                states = dict(zip(reply.lost, reply.states, strict=False))
                self._happened.append(LeasesLost(lost, {i: states[i] for i in lost if i in states}))

    def _note_epochs(self, epochs: Sequence[int]) -> None:
        for shard, epoch in enumerate(epochs):
            self._note_epoch(shard, epoch)

    def _note_epoch(self, shard: int, epoch: int) -> None:
        """A shard under a new epoch has forgotten what was parked or half done: repeat it."""
        known = self._epochs
        known += [0] * (shard + 1 - len(known))
        if epoch in (0, known[shard]):
            return  # not ready yet, or no news
        known[shard] = epoch
        for request in self._requests.all():
            if request.route == shard and request.sent:
                self._requests.enqueue(request)

    # --- notices

    def _on_notice(self, corr: int, body: bytes) -> None:
        notice: Any = decode(body, AnyNotice)  # type: ignore[arg-type]
        if isinstance(notice, ShardNotice):
            self._note_epoch(notice.shard, notice.epoch)
        elif isinstance(notice, ClosingNotice):
            self._happened.append(ServerClosing())
        else:
            queue = self._asked.queue_of(corr)
            if queue is not None:
                self._happened.append(NoticeReceived(queue, notice))
