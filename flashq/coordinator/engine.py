"""The coordinator's decisions: it grants epochs, keeps the logs of shards, and fires crons.

Pure: frames and both clocks come in as arguments. What has to be written comes out as a group; what
depends on it is sent only once `committed` is called for the group. It owns the order of things
within a turn and the routers; shards, crons, webhooks and mailboxes have modules of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct

from flashq.coordinator import crons, deliverers, history, mailboxes, repeats, webhooks
from flashq.coordinator.crons import CronTable
from flashq.coordinator.history import History
from flashq.coordinator.hooks import Hooks
from flashq.coordinator.incarnations import next_incarnation
from flashq.coordinator.mailboxes import Mailboxes
from flashq.coordinator.measures import Measures
from flashq.coordinator.outbox import Group, Outbox, Parcel
from flashq.coordinator.parts import Form, check_known
from flashq.coordinator.repeats import Repeats
from flashq.coordinator.shards import Recovery, ShardLinks
from flashq.coordinator.wanting import Wanting
from flashq.errors import BadMessage, FlashQError, InvalidRequest
from flashq.ids import shard_of_queue
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode_request, encode, error_reply
from flashq.protocol.crons import CronsReply, DeleteCron, ListCrons, SetCron
from flashq.protocol.framing import (
    INTERNAL,
    JSON,
    REPLY,
    ROUTE_COORDINATOR,
    Header,
    pack_header,
    pairs,
    unpack_header,
)
from flashq.protocol.internal import (
    COORDINATOR,
    Append,
    CheckpointSlice,
    Epochs,
    Fetch,
    Happened,
    Heeded,
    Mail,
    MailAck,
    Obliterated,
    Recovered,
    Refused,
    Reserve,
    RouterHello,
    Sampled,
    ShardHello,
    ShardReady,
    decode_internal,
)
from flashq.protocol.limits import EngineLimits, WebhookLimits
from flashq.protocol.server import GetMetricsHistory, MetricsHistoryReply
from flashq.storage.form import FORM_PART, check_form, form_part
from flashq.storage.port import Opened, Put

ROUTER_SILENCE_MS: Final = 30_000
ROUTERS_MAX: Final = 1000
PROBE_MS: Final = 100
"""How often a coordinator that goes down looks whether shards are still there."""
POSTPONED_MS: Final = 1000
"""When a cron that could not fire, since its shard takes no mail, is tried again."""

_INCARNATION: Final = Form("incarnation", int)
_FORMS: Final[tuple[Form[Any], ...]] = (
    _INCARNATION,
    mailboxes.COUNTERS,
    mailboxes.MESSAGES,
    crons.FORM,
    repeats.FORM,
    webhooks.WEBHOOKS,
    webhooks.QUEUES,
    webhooks.DEAD,
    deliverers.FORM,
    history.FORM,
)
"""Everything that a coordinator stores of its own."""


class CoordinatorSettings(Struct, frozen=True, kw_only=True):
    """What a coordinator has to know of the server's settings."""

    shard_count: int
    limits: EngineLimits
    config_hash: str
    webhooks: WebhookLimits = WebhookLimits()


class Coordinator:
    """See the module.

    Args:
        settings: the server's.
        opened: what storage has.
        now_ms: the wall clock.
        measures: what is told of storage; who measures it keeps them.

    Raises:
        ConfigError: a part of the coordinator's own, or what shards have stored, is of another
            version of flashq.
        StorageDamaged: one cannot be read, or contradicts the others.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        opened: Opened,
        now_ms: int,
        measures: Measures | None = None,
    ) -> None:
        self._shard_count = settings.shard_count
        self._config_hash = settings.config_hash
        self._log_bytes_max = settings.limits.log_bytes_max
        self._measures = measures or Measures()
        #: the monotonic clock of the last input or tick
        self._mono_ms = 0
        self._outbox = Outbox()
        self._links = ShardLinks(
            opened.shards, settings.config_hash, self._outbox, self._log_bytes_max
        )
        self._mailboxes = Mailboxes(
            settings.shard_count, self._new_incarnation(opened, now_ms), self._outbox
        )
        check_known(opened.parts, _FORMS)
        self._name_form(opened)
        self._mailboxes.load(opened.parts)
        self._crons = CronTable(settings.limits, self._outbox)
        self._crons.load(opened.parts, now_ms)
        self._repeats = Repeats(self._outbox)
        self._repeats.load(opened.parts)
        self._wanting = Wanting(settings.shard_count, self._links, self._outbox, now_ms)
        self._hooks = Hooks(settings, self._outbox, self._repeats, self._wanting, now_ms)
        self._hooks.load(opened.parts)
        self._history = History(self._outbox)
        self._history.load(opened.parts)
        #: when each router was last heard, on the monotonic clock
        self._routers: dict[bytes, int] = {}
        #: when crons are tried again that could not fire, on the wall clock; None when all could
        self._postponed_to_ms: int | None = None
        #: what is wrong with storage, in a sentence; empty when nothing is
        self._trouble = ""
        #: when to look again whether shards are there, on the monotonic clock; None before a drain
        self._probe_at_ms: int | None = None
        #: what was dropped, by reason
        self.dropped: Counter[str] = Counter()

    def _name_form(self, opened: Opened) -> None:
        """See that what shards have stored can be read; with an empty storage, say how it will be
        stored, before any of that is."""
        check_form("the storage", opened.shards, opened.parts)
        if FORM_PART not in opened.parts:
            self._outbox.write(form_part(), is_told=False)

    def _new_incarnation(self, opened: Opened, now_ms: int) -> int:
        """Begin a life as a peer; it is stored before any mail of it."""
        last = max((known for _, known in _INCARNATION.stored(opened.parts)), default=0)
        incarnation = next_incarnation(last, now_ms)
        self._outbox.write(_INCARNATION.put("", incarnation), is_told=False)
        return incarnation

    def write_again(self, parts: Sequence[Put]) -> None:
        """Let the first group give storage what it has lost of the parts that this began with."""
        for part in parts:
            self._outbox.write(part)

    # --- input

    def handle(self, identity: bytes, frames: Sequence[bytes], now_ms: int, mono_ms: int) -> None:
        """Take a message of a shard or a router.

        Args:
            identity: its return address.
            frames: pairs of header and body.
            now_ms: the wall clock.
            mono_ms: the monotonic clock.
        """
        self._mono_ms = mono_ms
        self._links.observe(mono_ms)
        try:
            for header_frame, body in pairs(frames):
                header = unpack_header(header_frame)
                if header.flags & INTERNAL:
                    self._handle_internal(identity, body, now_ms, mono_ms)
                else:
                    self._handle_request(identity, header, body, now_ms, mono_ms)
                self._outbox.cut_parts()
        except BadMessage:
            self.dropped["unreadable message"] += 1
        self._tell_routers()

    def _handle_internal(self, identity: bytes, body: bytes, now_ms: int, mono_ms: int) -> None:
        match decode_internal(body):
            case Append() as blob:
                self._links.append(identity, blob)
            case CheckpointSlice() as part:
                self._links.take_slice(identity, part)
            case Reserve() as request:
                self._links.reserve(identity, request)
            case Fetch() as fetch:
                self._links.fetch(identity, fetch)
            case ShardHello() as hello:
                self._links.greet(identity, hello, now_ms)
                if self._links.is_at(hello.shard, identity):
                    self._wanting.greet(hello.shard, fresh=not hello.epoch)
            case Sampled() as sample if self._links.is_at(sample.shard, identity):
                self._history.take(sample)
            case Heeded() as heeded if self._links.is_at(heeded.shard, identity):
                self._wanting.heed(heeded)
            case ShardReady() as ready:
                shard = self._links.set_ready(identity, ready)
                if shard is not None:
                    self._mailboxes.send(shard, identity, mono_ms)
            case RouterHello() as hello:
                self._greet_router(identity, hello, mono_ms)
            case Mail() as mail if 0 <= mail.sender < self._shard_count:
                self._take_mail(identity, mail, now_ms)
            case MailAck() as ack if 0 <= ack.receiver < self._shard_count:
                self._mailboxes.acknowledge(ack.receiver, ack)
            case _:
                self.dropped["unexpected message"] += 1

    # --- routers

    def _greet_router(self, identity: bytes, hello: RouterHello, mono_ms: int) -> None:
        if hello.config_hash != self._config_hash:
            reason = "the router's settings or version differ from the coordinator's"
            self._outbox.send(identity, Refused(reason=reason))
            return
        if identity in self._routers or len(self._routers) < ROUTERS_MAX:
            self._routers[identity] = mono_ms
        self._outbox.send(identity, self._epochs())

    def _epochs(self) -> Epochs:
        told = self._measures.told(self._mono_ms, self._links.log_bytes, self._log_bytes_max)
        return Epochs(epochs=self._links.epochs, storage=self._trouble, coordinator=told)

    def _tell_routers(self) -> None:
        """Tell every router the epochs, if they have changed."""
        if self._links.changed:
            self._links.changed = False
            for identity in self._routers:
                self._outbox.send(identity, self._epochs())

    # --- mail of shards

    def _take_mail(self, identity: bytes, mail: Mail, now_ms: int) -> None:
        if self._mailboxes.take(mail.sender, mail):
            match mail.body:
                case Obliterated(queue=queue):
                    self._crons.delete_of_queue(queue)
                case Happened() as happened:
                    if not self._hooks.take(happened, now_ms):
                        self._wanting.correct(mail.sender)
                case _:
                    self.dropped["unexpected mail"] += 1
        if self._mailboxes.has(mail.sender, mail):
            ack = MailAck(receiver=COORDINATOR, incarnation=mail.incarnation, number=mail.number)
            self._outbox.then(partial(self._outbox.send, identity, ack))

    # --- requests of clients, by way of a router

    def _handle_request(
        self, identity: bytes, header: Header, body: bytes, now_ms: int, mono_ms: int
    ) -> None:
        json = bool(header.flags & JSON)
        answer = partial(self._answer, identity, header)
        try:
            request = decode_request(body, json=json)
            if isinstance(request, GetMetricsHistory):  # nobody acts on it, so it may be unsafe
                told = MetricsHistoryReply(ok=True, points=self._history.points)
                self._send_answer(identity, header, told)
                return
            if self._hooks.handle(request, answer, now_ms, mono_ms, json=json):
                return
            answer(self._carry_out(request, now_ms, json=json))
        except FlashQError as error:
            answer(error_reply(error))

    def _answer(self, identity: bytes, header: Header, reply: Struct) -> None:
        """Answer a request, once everything is safe that the answer may tell of: the log of shards
        does not concern it, so that reading goes on while storage is away."""
        if self._outbox.is_safe:
            self._send_answer(identity, header, reply)
        else:
            body = encode(reply, json=bool(header.flags & JSON))
            self._outbox.then(partial(self._send_answer, identity, header, body))
            self._outbox.otherwise(partial(self._send_refusal, identity, header))

    def _send_refusal(self, identity: bytes, header: Header, error: FlashQError) -> None:
        self._send_answer(identity, header, error_reply(error))

    def _send_answer(self, identity: bytes, header: Header, reply: Struct | bytes) -> None:
        json = bool(header.flags & JSON)
        flags = REPLY | (JSON if json else 0)
        frame = pack_header(flags, ROUTE_COORDINATOR, header.corr, header.tail)
        body = reply if isinstance(reply, bytes) else encode(reply, json=json)
        self._outbox.send_pair(identity, frame, body)

    def _carry_out(self, request: Struct, now_ms: int, *, json: bool) -> Reply:
        match request:
            case ListCrons(limit=limit, after=after):
                listed = self._crons.view(limit, after, json=json)
                return CronsReply(ok=True, crons=listed.entries, next=listed.next)
            case SetCron() | DeleteCron():
                if not self._repeats.has(request):
                    self._change_crons(request, now_ms, json=json)
                return Reply()
            case _:
                word = type(request).__struct_config__.tag
                raise InvalidRequest(detail=f"{word} is not for the coordinator")

    def _change_crons(self, request: SetCron | DeleteCron, now_ms: int, *, json: bool) -> None:
        try:
            if isinstance(request, SetCron):
                self._crons.set(request, now_ms, json=json)
            else:
                self._crons.delete(request.name)
        except FlashQError as error:
            self._repeats.note(request, error)
            raise
        self._repeats.note(request)

    # --- time

    def tick(self, now_ms: int, mono_ms: int) -> None:
        """Do what is due: fire crons, send mail again, forget silent routers."""
        self._mono_ms = mono_ms
        self._links.tick(mono_ms)
        self._wanting.tick(mono_ms)
        self._hooks.tick(mono_ms)
        self._history.tick(now_ms, mono_ms, self._links.serving())
        if not self._trouble:
            self._history.store(now=self._probe_at_ms is not None)
        if self._postponed_to_ms is None or now_ms >= self._postponed_to_ms:
            self._fire_crons(now_ms, mono_ms)
        for shard, resend_at_ms in self._mailboxes.resends():
            address = self._links.address_of(shard)
            if resend_at_ms <= mono_ms and address is not None:
                self._mailboxes.send(shard, address, mono_ms)
        silent = [
            identity
            for identity, heard_ms in self._routers.items()
            if mono_ms - heard_ms >= ROUTER_SILENCE_MS
        ]
        for identity in silent:
            del self._routers[identity]
        if self._probe_at_ms is not None and mono_ms >= self._probe_at_ms:
            self._probe_at_ms = mono_ms + PROBE_MS
            for link in self._links.connected():
                self._links.tell_safe(link)

    def _fire_crons(self, now_ms: int, mono_ms: int) -> None:
        """Fire what is due. Next run, executions and message are written in one group.

        Not while storage is away: what it missed by then is one firing.
        """
        self._postponed_to_ms = now_ms + POSTPONED_MS if self._trouble else None
        if self._trouble:
            return
        for cron in self._crons.due(now_ms):
            shard = shard_of_queue(cron.queue, self._shard_count)
            if self._mailboxes.is_full(shard):
                self._crons.postpone(cron)
                self._postponed_to_ms = now_ms + POSTPONED_MS
                continue
            number = self._mailboxes.post(shard, self._crons.fire(cron, now_ms))
            self._outbox.then(partial(self._let_go, shard, number, mono_ms))
            self._outbox.cut_parts()

    def _let_go(self, shard: int, number: int, mono_ms: int) -> None:
        """A message is safe: it leaves, if its shard is there."""
        self._mailboxes.confirm(shard, number)
        address = self._links.address_of(shard)
        if address is not None:
            self._mailboxes.send(shard, address, mono_ms, after=number - 1)

    def next_wait_ms(self, now_ms: int, mono_ms: int) -> int:
        """Return after how many ms `tick` has something to do, at most a minute."""
        waits = [60_000]
        next_run_ms = self._crons.next_run_ms()
        if next_run_ms is not None:
            waits.append(max(next_run_ms, self._postponed_to_ms or 0) - now_ms)
        for shard, resend_at_ms in self._mailboxes.resends():
            # A shard that is away gets its mail when it says that it is ready.
            if self._links.address_of(shard) is not None:
                waits.append(resend_at_ms - mono_ms)
        ahead = (
            self._probe_at_ms,
            self._links.next_at_ms(),
            self._wanting.next_at_ms(),
            self._hooks.next_at_ms(),
            self._history.next_at_ms(is_served=bool(self._links.serving())),
        )
        waits += [at_ms - mono_ms for at_ms in ahead if at_ms is not None]
        return max(0, min(waits))

    # --- output

    def take_group(self) -> Group | None:
        """Return the group that has to be committed now, if there is one; groups are committed in
        the order in which they are taken."""
        return self._outbox.take_group()

    def committed(self, group: Group) -> None:
        """The group is stored: say what depended on it."""
        self._outbox.committed(group)
        self._links.committed(group)
        for action in group.then:
            action()

    def refuse(self, group: Group, error: FlashQError) -> list[Parcel]:
        """Storage refuses the group for what is in it: return what those are told who asked. After
        this another coordinator goes on, which knows nothing of it."""
        self._outbox.take_parcels()
        for action in group.otherwise:
            action(error)
        return self._outbox.take_parcels()

    def go_on_after(self, parcels: Sequence[Parcel], now_ms: int) -> None:
        """Take the place of a coordinator of which storage has refused something.

        Args:
            parcels: what it has to say yet.
            now_ms: the wall clock. Crons wait a moment, for it may have been the firing of one.
        """
        for to, frames in parcels:
            for header, body in zip(frames[::2], frames[1::2], strict=True):
                self._outbox.send_pair(to, header, body)
        self._postponed_to_ms = now_ms + POSTPONED_MS

    def take_recoveries(self) -> list[Recovery]:
        """Return what storage has to be asked for, after the groups taken so far."""
        return self._links.take_recoveries()

    def recovered(self, recovery: Recovery, part: Recovered) -> None:
        """Hand on what storage had."""
        self._links.recovered(recovery, part)

    def unreadable(self, recovery: Recovery, reason: str) -> None:
        """What storage has for a shard is damaged."""
        self._links.unreadable(recovery, reason)

    def set_trouble(self, trouble: str) -> bool:
        """Note what is wrong with storage, in a sentence that is empty when nothing is.

        Returns:
            Whether it was otherwise before.
        """
        if trouble == self._trouble:
            return False
        self._trouble = trouble
        self._links.changed = True
        self._tell_routers()
        return True

    def take_parcels(self) -> list[Parcel]:
        """Return the messages to send, and forget them."""
        return self._outbox.take_parcels()

    def undeliverable(self, identity: bytes) -> None:
        """There is nobody at this address any more."""
        self._routers.pop(identity, None)
        self._links.lose(identity)

    # --- the end

    def drain(self, mono_ms: int) -> None:
        """Begin to go down: serve until the shards have gone."""
        if self._probe_at_ms is None:
            self._probe_at_ms = mono_ms

    @property
    def is_drained(self) -> bool:
        """Whether a drain has begun and no shard is left."""
        return self._probe_at_ms is not None and not self._links.connected()
