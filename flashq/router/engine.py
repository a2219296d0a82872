"""The router's decisions: where each pair goes, who may send it, and what many shards answer.

Pure: frames and the monotonic time come in as arguments, and what has to be sent stands in boxes
until it is taken. It owns the way of requests and replies, gathers with their deadline, and the
shards' epochs as the coordinator tells them. It has no table of requests: the way home travels with
each of them (`tails`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from flashq.errors import (
    BadMessage,
    Busy,
    FlashQError,
    InvalidRequest,
    MessageTooLarge,
    ShuttingDown,
)
from flashq.ids import shard_of_job, shard_of_queue
from flashq.protocol.base import Reply
from flashq.protocol.codec import (
    decode_outline,
    decode_request,
    encode,
    error_reply,
)
from flashq.protocol.command import Scope
from flashq.protocol.framing import (
    BOUNCED,
    CLIENT_FLAGS,
    DELIVERY,
    HEADER_BYTES,
    INTERNAL,
    JSON,
    NOTICE,
    ROUTE_ANY,
    ROUTE_COORDINATOR,
    ROUTE_ROUTER,
    VERSION,
    pack_header,
    unpack_header,
    unpack_heard,
)
from flashq.protocol.internal import Epochs, Refused, RouterHello, decode_internal, encode_internal
from flashq.protocol.sessions import (
    ClosingNotice,
    Goodbye,
    ShardNotice,
    Subscribe,
)
from flashq.router.boxes import Boxes
from flashq.router.gathering import GatherTable
from flashq.router.gathers import Division, Gather, ask_all, divide_by_id, join
from flashq.router.hearing import Hearing
from flashq.router.known import Known, Supervised
from flashq.router.lanes import direct_lanes, lanes_to
from flashq.router.outbox import ERA_MS, PAIR_OVERHEAD_BYTES, Lane, Parcel
from flashq.router.reads import LIGHT_HEADS, Held, Reads, cost_of
from flashq.router.routing import (
    checked_body,
    command_of,
    job_of,
)
from flashq.router.sessions import Asker, Sessions
from flashq.router.settings import RouterSettings
from flashq.router.tails import (
    ACCOUNT_AT,
    CLIENT,
    GATHER,
    HOME_AT,
    KIND_AT,
    READER,
    READER_AT,
    TO_CLIENT,
    TO_GATHER,
    TO_READER,
)
from flashq.tokens import Guard, Keyring

COORDINATOR_HELLO_MS: Final = 2000

_UNREADABLE: Final = bytes(HEADER_BYTES)
"""Stands for a header that cannot be read."""


class Router:
    """See the module. Times are of the monotonic clock, in ms.

    Args:
        settings: what it has to know.
        now_ms: the time.
        guard: who may come in; everybody without it.
        supervisor: gives what the server's supervisor has noted, for STATS; None without one.
    """

    def __init__(
        self,
        settings: RouterSettings,
        now_ms: int,
        guard: Guard | None = None,
        supervisor: Supervised = lambda: None,
    ) -> None:
        self._settings = settings
        self._guard = guard or Guard()
        self._is_guarded = not self._guard.is_open
        #: where the client that is being listened to comes from
        self._address: str | None = None
        #: to shard `i` at `i`, to the coordinator at the end
        self._lanes = lanes_to(settings.shard_count)
        self._coordinator = self._lanes[-1]
        #: by the first four bytes of a client's header: the lane it goes to as it is
        self._direct = direct_lanes(self._lanes)
        self._boxes = Boxes()
        self._sessions = Sessions(settings, self._guard, self._boxes.notify)
        self._reads = Reads(settings.unread_bytes_max, settings.all_unread_bytes_max)
        #: the number of the read that is being passed on, until it stands in a tail
        self._read = b""
        self._now_ms = now_ms
        self._gathers = GatherTable(self._finish)
        self._hearing = Hearing(settings.shard_count, settings.gather_timeout_ms)
        self._hello_at_ms = now_ms
        self._era_at_ms = now_ms + ERA_MS
        self._draining = False
        #: when the last reply of a peer passed, or the drain began
        self._last_reply_ms = now_ms
        #: clients that leave so much unread that their requests are refused
        self._overfull: set[bytes] = set()
        self._known = Known(supervisor)
        #: what was dropped, by reason
        self.dropped: Counter[str] = Counter()
        #: why this router must not run; it exits then
        self.refused: str | None = None

    # --- what the process asks

    @property
    def wants_events(self) -> bool:
        """Whether somebody listens, so that the shards' events are worth having."""
        return self._sessions.has_listeners

    def take_topics(self) -> list[tuple[bytes, bool]]:
        """Return what to subscribe to (True) or to unsubscribe from at the shards' publishers
        beside everything that is published, and forget it."""
        self._hearing.follow(self._sessions.take_changed_queues())
        return self._hearing.take_topics()

    @property
    def epochs(self) -> list[int]:
        """Each shard's epoch, 0 for one that is not ready."""
        return [lane.epoch for lane in self._lanes[:-1]]

    @property
    def bytes_under_way(self) -> int:
        """What is sent and not answered yet, over all peers."""
        return sum(lane.bytes_under_way for lane in self._lanes)

    def next_deadline_ms(self) -> int:
        """Return when `tick` has something to do next."""
        others = (
            self._hearing.next_deadline_ms(),
            self._sessions.next_deadline_ms(),
            self._gathers.next_deadline_ms(),
            self._reads.next_deadline_ms(),
        )
        deadlines = [self._hello_at_ms, self._era_at_ms, *(at for at in others if at is not None)]
        return min(deadlines)

    def take_client_parcels(self) -> list[Parcel]:
        """Return the messages for clients, and forget them."""
        self._reads.sent()
        return self._boxes.take()

    def take_peer_parcels(self) -> list[Parcel]:
        """Return the messages for shards and the coordinator, and forget them."""
        while (found := self._reads.take_next(self._now_ms)) is not None:
            self._ask_read(*found, self._now_ms)
        return [Parcel(lane.routing_id, part) for lane in self._lanes for part in lane.take()]

    # --- from clients

    def handle_client(
        self, identity: bytes, frames: Sequence[bytes], now_ms: int, address: str | None = None
    ) -> None:
        """Take a client's message.

        Args:
            identity: the name of the client's connection.
            frames: pairs of header and body, or garbage.
            address: the host that it comes from, whose failed attempts are counted; None where they
                are not.
        """
        self._address = address
        if (
            len(frames) & 1 or not frames or self._draining or self._overfull or self._is_guarded
        ) and not self._may_enter(identity, frames, now_ms):
            return
        self._take_pairs(identity, frames, now_ms)

    def _take_pairs(self, identity: bytes, frames: Sequence[bytes], now_ms: int) -> None:
        """Pass on what names its way, and find the way of the rest."""
        direct = self._direct
        bytes_max = self._settings.peer_bytes_max
        body_max = self._settings.message_bytes_max
        halves = iter(frames)
        for header, body in zip(halves, halves, strict=True):
            if body[1:9] not in LIGHT_HEADS and (cost := cost_of(header, body)):
                self._take_read(Held(identity, header, body, cost), now_ms)
                continue
            lane = direct.get(header[:4])
            if lane is None or len(header) != HEADER_BYTES:
                self._handle_pair(identity, header, body, now_ms)
                continue
            size = len(body) + PAIR_OVERHEAD_BYTES
            if lane.bytes_under_way + size > bytes_max or len(body) > body_max:
                self._refuse(identity, header, self._too_much(lane, body))
                continue
            lane.frames += (header + CLIENT + lane.admit(size) + identity, body)

    def _take_read(self, held: Held, now_ms: int) -> None:
        """Take a request whose reply may be large: ask for it, or let it wait until its client has
        read others."""
        is_local = self._address is None
        number = self._reads.begin(held.identity, held.cost, now_ms, is_local=is_local)
        if number is not None:
            self._ask_read(held, number, now_ms)
            return
        try:
            self._reads.hold(held)
        except Busy as error:
            self._refuse(held.identity, held.header, error)

    def _ask_read(self, held: Held, number: bytes, now_ms: int) -> None:
        """Pass such a request on, under its number."""
        self._read = number
        self._handle_pair(held.identity, held.header, held.body, now_ms)
        if self._read:  # it was refused, or answered here
            self._read = b""
            self._reads.end(number, 0)

    def _home(self, identity: bytes) -> tuple[bytes, bytes]:
        """Return what a tail says: its kind, and the way home."""
        if not self._read:
            return CLIENT, identity
        number, self._read = self._read, b""
        return READER, number + identity

    def _may_enter(self, identity: bytes, frames: Sequence[bytes], now_ms: int) -> bool:
        """Decide on a whole message; answer what is not let in."""
        if len(frames) % 2 or not frames:
            self.dropped["half message"] += 1
            error: FlashQError = BadMessage(
                detail=f"{len(frames)} frames, expected pairs of header and body"
            )
        elif self._draining:
            error = ShuttingDown()
        elif identity in self._overfull:
            error = Busy(detail="read the replies that wait for you first")
        else:
            return not (self._is_guarded and self._take_checked(identity, frames, now_ms))
        for header in frames[::2]:
            self._refuse(identity, header, error)
        return False

    def _take_checked(self, identity: bytes, frames: Sequence[bytes], now_ms: int) -> bool:
        """Look at each pair of a client whose token does not allow everything, and pass on what it
        does; False for one whose token does."""
        grant = self._sessions.grant_of(identity)
        if grant is not None and grant.is_everything:
            return False
        for header, body in _pairs(frames):
            try:
                checked = checked_body(grant, header, body, self._settings.message_bytes_max)
            except FlashQError as error:
                self._refuse(identity, header, error)
            else:
                self._take_pairs(identity, (header, checked), now_ms)
        return True

    def _too_much(self, lane: Lane, body: bytes) -> FlashQError:
        if len(body) > self._settings.message_bytes_max:
            return MessageTooLarge()
        return Busy(detail=f"{lane.bytes_under_way} bytes are under way")

    def _refuse(self, identity: bytes, header: bytes, error: FlashQError) -> None:
        """Answer a pair with an error; one whose header cannot be read that far under `corr` 0."""
        if len(header) < HEADER_BYTES:
            self.dropped["unreadable header"] += 1
            header = _UNREADABLE
        corr = int.from_bytes(header[4:HEADER_BYTES], "big")
        self._boxes.reply(Asker(identity, corr, header[1]), error_reply(error))

    def _handle_pair(self, identity: bytes, header: bytes, body: bytes, now_ms: int) -> None:
        """Take a pair that is not simply passed on."""
        try:
            flags, route, corr, tail = unpack_header(header)
            if tail:
                raise BadMessage(detail=f"header of {len(header)} bytes, expected {HEADER_BYTES}")
            if flags & ~CLIENT_FLAGS:
                raise BadMessage(detail=f"flags {flags:#04x}, a client may set {CLIENT_FLAGS:#04x}")
            if len(body) > self._settings.message_bytes_max:
                raise MessageTooLarge
            asker = Asker(identity, corr, flags)
            if route in (ROUTE_ANY, ROUTE_ROUTER):
                self._handle_request(asker, body, now_ms)
            elif route == ROUTE_COORDINATOR or route < self._settings.shard_count:
                self._pass_on(asker, route, body)
            else:
                raise BadMessage(
                    detail=f"route {route}, there are {self._settings.shard_count} shards"
                )
        except FlashQError as error:
            self._refuse(identity, header, error)

    def _handle_request(self, asker: Asker, body: bytes, now_ms: int) -> None:
        """Find out who carries a request out, and give it to them."""
        outline = decode_outline(body, json=asker.json)
        command = command_of(outline)
        shards = self._settings.shard_count
        match command.scope:
            case Scope.ROUTER:
                self._handle_own(asker, body, now_ms)
            case Scope.COORDINATOR:
                self._pass_on(asker, ROUTE_COORDINATOR, body)
            case Scope.JOB:
                self._pass_on(asker, shard_of_job(job_of(outline, command.id_field), shards), body)
            case Scope.JOBS:
                ids_max = self._settings.limits.batch_jobs_max
                division = divide_by_id(outline, body, shards, ids_max, json=asker.json)
                if isinstance(division, int):
                    self._pass_on(asker, division, body)
                else:
                    self._scatter(asker, division, now_ms)
            case Scope.QUEUE if outline.queue is None:
                raise InvalidRequest(detail="missing field `queue`")
            case Scope.QUEUE | Scope.QUEUE_OR_ALL if outline.queue is not None:
                self._pass_on(asker, shard_of_queue(outline.queue, shards), body)
            case _:
                self._scatter(asker, self._for_all(command.word, asker, body), now_ms)

    def _pass_on(self, asker: Asker, route: int, body: bytes) -> None:
        lane = self._coordinator if route == ROUTE_COORDINATOR else self._lanes[route]
        size = len(body) + PAIR_OVERHEAD_BYTES
        if lane.bytes_under_way + size > self._settings.peer_bytes_max:
            raise self._too_much(lane, body)
        kind, home = self._home(asker.identity)
        tail = kind + lane.admit(size) + home
        lane.frames += (pack_header(asker.flags, route, asker.corr, tail), body)

    def _handle_own(self, asker: Asker, body: bytes, now_ms: int) -> None:
        """Carry out one of the router's own commands."""
        request = decode_request(body, json=asker.json)
        if isinstance(request, Goodbye):
            self._sessions.forget(asker.identity)
            self._scatter(asker, self._for_all("GOODBYE", asker, body), now_ms)
            return
        reply = self._sessions.handle(request, asker, now_ms, self.epochs, self._address)
        if isinstance(request, Subscribe):
            self._hearing.follow(self._sessions.take_changed_queues())
            self._hearing.ask(asker, request.queue, now_ms)
            self._answer_subscribers(now_ms)
        else:
            self._boxes.reply(asker, reply)

    def _for_all(self, word: str, asker: Asker, body: bytes) -> Division:
        return ask_all(
            word,
            body,
            self._settings.shard_count,
            json=asker.json,
            known=self._known,
            names=self._sessions.names,
        )

    # --- scatter and gather

    def _scatter(self, asker: Asker, division: Division, now_ms: int) -> None:
        self._gathers.check_room()
        sizes = {shard: len(body) + PAIR_OVERHEAD_BYTES for shard, body in division.bodies.items()}
        for shard, size in sizes.items():
            lane = self._lanes[shard]
            # A question without content is let through: it is how one finds out what is wrong.
            if size > 1024 and lane.bytes_under_way + size > self._settings.peer_bytes_max:
                raise self._too_much(lane, division.bodies[shard])
        gather = Gather(asker, division, now_ms + self._settings.gather_timeout_ms)
        number = self._gathers.add(gather)
        gather.read, self._read = self._read, b""
        for shard, body in division.bodies.items():
            lane = self._lanes[shard]
            gather.waiting[shard] = lane.epoch
            tail = GATHER + lane.admit(sizes[shard]) + number
            lane.frames += (pack_header(asker.flags, shard, 0, tail), body)

    def _finish(self, gather: Gather) -> None:
        """Answer a gather with what there is."""
        asker = gather.asker
        try:
            body = join(gather.division, gather.replies, json=asker.json)
        except FlashQError as error:
            body = encode(error_reply(error), json=asker.json)
        if gather.read:
            self._reads.end(gather.read, len(body))
        self._boxes.reply_encoded(asker, body)

    # --- from shards and the coordinator

    def handle_shard(self, shard: int, frames: Sequence[bytes], now_ms: int) -> None:
        """Take a shard's message: replies that carry the tails of their requests."""
        self._take_replies(self._lanes[shard], shard, frames, now_ms)

    def handle_coordinator(self, frames: Sequence[bytes], now_ms: int) -> None:
        """Take the coordinator's message: replies, and what it says itself."""
        self._take_replies(self._coordinator, ROUTE_COORDINATOR, frames, now_ms)

    def _take_replies(self, lane: Lane, peer: int, frames: Sequence[bytes], now_ms: int) -> None:
        self._last_reply_ms = now_ms
        boxes = self._boxes.by_client
        for header, body in _pairs(frames):
            if len(header) <= HOME_AT or header[0] != VERSION:
                self._handle_internal(peer, header, body)
                continue
            lane.settle(header, ACCOUNT_AT)
            if header[KIND_AT] == TO_CLIENT:
                identity = header[HOME_AT:]
                box = boxes.get(identity)
                if box is None:
                    boxes[identity] = [header[:HEADER_BYTES], body]
                else:
                    box += (header[:HEADER_BYTES], body)
            elif header[KIND_AT] == TO_READER:
                self._reads.end(header[HOME_AT:READER_AT], len(body))
                self._boxes.put(header[READER_AT:], header[:HEADER_BYTES], body)
            elif header[KIND_AT] == TO_GATHER:
                if not self._gathers.take(peer, header[HOME_AT:], body):
                    self.dropped["late reply"] += 1
            else:
                self.dropped["unreadable reply"] += 1

    def _handle_internal(self, peer: int, header: bytes, body: bytes) -> None:
        if peer != ROUTE_COORDINATOR or len(header) < HEADER_BYTES or not header[1] & INTERNAL:
            self.dropped["unreadable reply"] += 1
            return
        try:
            message = decode_internal(body)
        except BadMessage:
            message = None
        match message:
            case Epochs(epochs=epochs) if len(epochs) == self._settings.shard_count:
                self._known.coordinator = message
                for shard, epoch in enumerate(epochs):
                    self._set_epoch(shard, epoch)
            case Refused(reason=reason):
                self.refused = reason
            case _:
                self.dropped["unreadable reply"] += 1

    def _set_epoch(self, shard: int, epoch: int) -> None:
        """Note a shard's epoch. Under a new one everything that was under way there is gone: the
        clients are told, and gathers do not wait for it any more."""
        lane = self._lanes[shard]
        if epoch == lane.epoch:
            return
        lane.epoch = epoch
        if not epoch:
            return
        lane.forget_under_way()
        self._reads.forget_under_way()
        self._gathers.forget_shard(shard, epoch)
        self._notify_all(ShardNotice(shard=shard, epoch=epoch))

    def handle_event(self, frames: Sequence[bytes]) -> None:
        """Take an event as a shard published it, queue and body; or that a shard has learned which
        events are wanted here."""
        try:
            if len(frames) != 2:
                raise BadMessage(detail=f"event of {len(frames)} frames")
            heard = unpack_heard(frames)
            if heard is None:
                self._sessions.handle_event(frames[1])
            elif (queue := self._hearing.heard(*heard)) is not None:
                self._sessions.rejoined(heard[0], queue)
        except BadMessage:
            self.dropped["unreadable event"] += 1

    def _answer_subscribers(self, now_ms: int) -> None:
        for asker in self._hearing.take_told(now_ms):
            self._boxes.reply(asker, Reply())

    # --- tokens

    def log_in(self, identity: bytes, token: bytes, now_ms: int, address: str | None) -> bool:
        """Take a token that a client shows in its handshake, and tell whether it is one."""
        try:
            self._sessions.authenticate(identity, token, now_ms, address)
        except FlashQError:
            self.dropped["wrong login"] += 1
            return False
        return True

    def take_changed_standings(self) -> dict[bytes, bool]:
        """Return the clients that have shown a token since the last time (True), or whose token is
        none any more (False)."""
        return self._sessions.take_changed()

    def replace_tokens(self, keyring: Keyring) -> None:
        """Go on with other tokens."""
        self._guard.replace(keyring)
        self._sessions.recheck()

    # --- to clients

    def _notify_all(self, notice: ShardNotice | ClosingNotice) -> None:
        bodies = {json: encode(notice, json=json) for json in (False, True)}
        for client in self._sessions.greeted():
            self._boxes.notify(client.identity, 0, bodies[client.json], json=client.json)

    def undeliverable(
        self, identity: bytes, frames: Sequence[bytes], now_ms: int, *, gone: bool
    ) -> None:
        """A message to a client could not be sent.

        Deliveries of jobs go back to their shards at once; events are told as a gap later.

        Args:
            gone: there is no such client any more; else it reads too slowly.
        """
        for header, body in _pairs(frames):
            flags, shard = header[1], int.from_bytes(header[2:4], "big")
            if flags & DELIVERY and shard < self._settings.shard_count:
                bounced = pack_header(flags | BOUNCED, shard, int.from_bytes(header[4:], "big"))
                self._lanes[shard].frames += (bounced, body)
                self.dropped["bounced delivery"] += 1
                continue
            if flags & NOTICE and not gone:
                self._sessions.note_undelivered(identity, body, now_ms, json=bool(flags & JSON))
            self.dropped["reply to nobody" if gone else "reply to a slow client"] += 1
        if gone:
            self._sessions.forget(identity)

    def unread(self, identity: bytes, unread_bytes: int) -> None:
        """A client has left so much unread."""
        self._reads.unread(identity, unread_bytes)
        if 2 * unread_bytes > self._settings.unread_bytes_max:
            self._overfull.add(identity)
        else:
            self._overfull.discard(identity)

    def client_left(self, identity: bytes) -> None:
        """A client's connection is closed: nothing is known of it any more."""
        self._sessions.forget(identity)
        self._reads.leave(identity)
        self._overfull.discard(identity)

    # --- time

    def tick(self, now_ms: int) -> None:
        """Do what is due: gathers, the hello to the coordinator, silent clients."""
        self._now_ms = now_ms
        self._gathers.tick(now_ms)
        self._reads.tick(now_ms)
        self._answer_subscribers(now_ms)
        if now_ms >= self._hello_at_ms:
            self._hello_at_ms = now_ms + COORDINATOR_HELLO_MS
            hello = encode_internal(RouterHello(config_hash=self._settings.config_hash))
            self._coordinator.frames += (pack_header(INTERNAL, ROUTE_COORDINATOR, 0), hello)
        if now_ms >= self._era_at_ms:
            self._era_at_ms = now_ms + ERA_MS
            for lane in self._lanes:
                lane.end_era()
        self._sessions.tick(now_ms)

    def drain(self, now_ms: int) -> None:
        """Begin to go down: tell the clients, and take no more requests."""
        if not self._draining:
            self._draining = True
            self._last_reply_ms = now_ms
            self._notify_all(ClosingNotice())

    def is_drained(self, now_ms: int, quiet_ms: int) -> bool:
        """Tell whether nothing more is to be expected.

        Parked pulls stay under way for a minute, so it is enough that no reply passed for a while.

        Args:
            quiet_ms: that while.
        """
        if not self._draining or self._gathers:
            return False
        return self.bytes_under_way == 0 or now_ms - self._last_reply_ms >= quiet_ms


def _pairs(frames: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Split the frames of one of our own messages."""
    halves = iter(frames)
    return zip(halves, halves, strict=True)
