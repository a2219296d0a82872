"""The coordinator's process: its socket, its storage, clocks, and the loop around its engine.

Owns the ROUTER socket that shards and routers connect to, the locks of run and data directory, and
the writer, which owns the storage. Decides nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import zmq

from flashq.clock import Clock, SystemClock
from flashq.config import MEMORY, Settings, configuration_hash, flag_parser
from flashq.coordinator.acceptance import open_accepted
from flashq.coordinator.engine import Coordinator, CoordinatorSettings
from flashq.coordinator.measures import Measures
from flashq.coordinator.writer import DirectWriter, Writer, WriterThread
from flashq.coordinator.writer_engine import (
    Ahead,
    Broken,
    Changed,
    Committed,
    Delayed,
    Excluded,
    Read,
    Took,
    Trouble,
    Unreadable,
)
from flashq.datadir import DataDir
from flashq.errors import ConfigError, StorageUnavailable
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.observability.logging import log_of
from flashq.protocol.limits import STORAGE_AHEAD_BYTES
from flashq.storage import open_storage
from flashq.storage.port import Opened, Put
from flashq.walltime import JUMP_LASTS_MS
from flashq.wire import receive_all, send

PROGRAM: Final = "flashq-coordinator"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken in a turn, so that what is safe is told in between."""
SLOW_MS: Final = 2000
"""Storage that has not answered for so long is in trouble, though it has not said so."""
SWITCH_S: Final = 0.0005
"""How soon loop and writer let each other run; Python's own 5 ms are longer than a commit."""
LINGER_MS: Final = 500
DRAIN_LOOK_MS: Final = 50


def run(settings: Settings, lifecycle: Lifecycle) -> None:
    """Be the coordinator until told to stop.

    Raises:
        ConfigError, StorageUnavailable: it cannot start.
        StorageDamaged: what storage has does not fit together.
    """
    run_dir = settings.run()
    run_dir.create()
    lock = Lockfile.acquire(run_dir.lock("coordinator"), pause=lifecycle.pause)
    data_dir = None
    if settings.storage != MEMORY:
        data_dir = DataDir(settings.data_dir, pause=lifecycle.pause)
    context = zmq.Context()
    clock = SystemClock()
    storage = open_storage(settings.storage, clock.wall_ms())
    writer: Writer | None = None
    try:
        with lifecycle.unwatched():  # takes as long as storage takes
            if data_dir is None:
                opened, marks = storage.open(settings.shards), None
            else:
                opened, marks = open_accepted(storage, data_dir, settings.shards)
        turns = Turns(settings, opened, clock)
        socket = _listen(context, run_dir.coordinator)
        if marks is None:
            writer = DirectWriter(storage)
        else:
            sys.setswitchinterval(SWITCH_S)
            writer = WriterThread(storage, opened, marks)
        lifecycle.ready(run_dir.coordinator)
        turns.serve(writer, socket, lifecycle)
    finally:
        if writer is not None:
            writer.close()
        else:
            storage.close()
        context.destroy(linger=LINGER_MS)
        if data_dir is not None:
            data_dir.close()
        lock.release()
    turns.finish(writer)


class Turns:
    """The loop around the engine.

    Args:
        settings: the server's.
        opened: what storage has.
        clock: both clocks.
    """

    def __init__(self, settings: Settings, opened: Opened, clock: Clock) -> None:
        self._agreed = CoordinatorSettings(
            shard_count=settings.shards,
            limits=settings.engine_limits(),
            config_hash=configuration_hash(settings),
            webhooks=settings,
        )
        self._drain_timeout_ms = settings.drain_timeout_ms
        self._clock = clock
        self._measures = Measures()
        self._coordinator = self._new_coordinator(opened)
        self._log = log_of(PROGRAM)
        #: what storage says is wrong
        self._trouble = ""
        #: when storage last answered or had nothing to do, on the monotonic clock
        self._answered_ms = clock.mono_ms()

    def _new_coordinator(self, opened: Opened) -> Coordinator:
        return Coordinator(self._agreed, opened, self._clock.wall_ms(), self._measures)

    def serve(self, writer: Writer, socket: zmq.Socket[bytes], lifecycle: Lifecycle) -> None:
        """Wait, drain a bounded batch, tick, hand on what has to be written, send."""
        poller = zmq.Poller()
        for readable in (socket, lifecycle.wake_fd, writer.wake_fd):
            if readable is not None:
                poller.register(readable, zmq.POLLIN)
        drain_ends_ms: int | None = None
        while True:
            is_draining = drain_ends_ms is not None
            wait_ms = lifecycle.beat(self._wait_ms(writer, is_draining=is_draining))
            ready = dict(poller.poll(wait_ms))
            now_ms, mono_ms = self._clock.wall_ms(), self._clock.mono_ms()
            self._watch_clock()
            if lifecycle.wake_fd in ready:
                lifecycle.clear_wake()
            if socket in ready:
                receive_all(socket, partial(self._handle, now_ms, mono_ms), TURN_MESSAGES_MAX)
            if lifecycle.stopping and drain_ends_ms is None:
                drain_ends_ms = mono_ms + self._drain_timeout_ms
                self._coordinator.drain(mono_ms)
            self._coordinator.tick(now_ms, mono_ms)
            self._settle(writer, mono_ms)
            self._watch(writer, mono_ms)
            _send(self._coordinator, socket)
            if drain_ends_ms is not None and (
                mono_ms >= drain_ends_ms
                # While storage says that it cannot, there is nothing to wait for.
                or (self._coordinator.is_drained and (writer.is_idle or self._trouble))
            ):
                return

    def _handle(self, now_ms: int, mono_ms: int, frames: list[bytes]) -> None:
        self._coordinator.handle(frames[0], frames[1:], now_ms, mono_ms)

    def _wait_ms(self, writer: Writer, *, is_draining: bool) -> int:
        wait_ms = self._coordinator.next_wait_ms(self._clock.wall_ms(), self._clock.mono_ms())
        if not writer.is_idle:
            wait_ms = min(wait_ms, SLOW_MS)
        return min(wait_ms, DRAIN_LOOK_MS) if is_draining else wait_ms

    def _settle(self, writer: Writer, mono_ms: int) -> None:
        """Tell the engine what has become safe, and give the writer what has to."""
        is_settled = False
        while not is_settled:
            is_settled = True
            for result in writer.take_results():
                is_settled = False
                self._answered_ms = mono_ms
                match result:
                    case Committed(groups):
                        self._measures.committed(groups)
                        for group in groups:
                            self._coordinator.committed(group)
                    case Took(seconds):
                        self._measures.commit_seconds.add(seconds)
                    case Read(recovery, part):
                        self._coordinator.recovered(recovery, part)
                    case Unreadable(recovery, reason):
                        self._log.error("storage is damaged", reason=reason)
                        self._coordinator.unreadable(recovery, reason)
                    case Trouble(sentence):
                        self._trouble = sentence
                        if sentence:
                            self._measures.troubled(sentence, self._clock.wall_ms())
                    case Ahead(size):
                        self._note_ahead(size)
                    case Delayed(sentence):
                        self._tell_delay(sentence)
                    case Changed(opened, again):
                        self._begin_anew(opened, again)
                        writer.restart()
                    case Excluded() as excluded:
                        self._exclude(excluded)
                        writer.restart()
                    case Broken(error):
                        raise error
            while (group_or_none := self._coordinator.take_group()) is not None:
                is_settled = False
                if group_or_none.writes or not writer.is_idle:
                    self._measures.submitted(group_or_none, mono_ms)
                    writer.submit(group_or_none)
                else:
                    self._coordinator.committed(group_or_none)
            for recovery in self._coordinator.take_recoveries():
                is_settled = False
                writer.submit(recovery)

    def _note_ahead(self, size: int) -> None:
        """Say when somebody who reads keeps storage from tidying up."""
        was_held = self._measures.ahead_bytes > STORAGE_AHEAD_BYTES
        self._measures.ahead_bytes = size
        if size > STORAGE_AHEAD_BYTES and not was_held:
            self._log.warning(
                "the write-ahead log of storage grows: somebody reads the file and does not end, "
                "such as a backup that is stopped",
                bytes=size,
            )
        elif was_held and size <= STORAGE_AHEAD_BYTES:
            self._log.info("the write-ahead log of storage is as small as it should be", bytes=size)

    def _tell_delay(self, sentence: str) -> None:
        if sentence:
            self._log.warning("shards wait for their recovery", reason=sentence)
        else:
            self._log.info("recoveries go on")

    def _begin_anew(self, opened: Opened, again: Sequence[Put]) -> None:
        """Storage is not what it was: start over with what it has. Shards say hello by themselves,
        and give again what is missing; so do we with what is our own."""
        self._log.warning(
            "storage came back with something else than it had; beginning anew",
            parts_written_again=len(again),
        )
        self.log_dropped()
        self._measures.begun_anew()
        self._coordinator = self._new_coordinator(opened)
        self._coordinator.write_again(again)

    def _exclude(self, excluded: Excluded) -> None:
        """Storage refuses a change of our own: answer so, and go on as if it had not been asked
        for."""
        error = excluded.error
        self._log.error("storage refuses a change for what is in it", reason=error.text)
        parcels = self._coordinator.refuse(excluded.group, error)
        behind = StorageUnavailable(detail="a change before this one was refused")
        for group in excluded.void:
            parcels += self._coordinator.refuse(group, behind)
        self.log_dropped()
        self._measures.forget_groups()
        self._coordinator = self._new_coordinator(excluded.opened)
        self._coordinator.go_on_after(parcels, self._clock.wall_ms())

    def _watch(self, writer: Writer, mono_ms: int) -> None:
        """Let everybody know how storage is."""
        if writer.is_idle:
            self._answered_ms = mono_ms
        trouble = self._trouble
        if not trouble and mono_ms - self._answered_ms >= SLOW_MS:
            trouble = f"storage has not answered for more than {SLOW_MS} ms"
        if self._coordinator.set_trouble(trouble):
            if trouble:
                self._log.warning("changes wait for storage", reason=trouble)
            else:
                self._log.info("storage works again")

    def _watch_clock(self) -> None:
        """Let everybody know when the wall clock jumps, and what becomes of that."""
        clock, measures = self._clock, self._measures
        off_ms, jumps = clock.off_ms, clock.jumps
        was_off_ms, was_jumps = measures.clock_off_ms, measures.clock_jumps
        measures.clock_off_ms, measures.clock_jumps = off_ms, jumps
        if jumps != was_jumps:
            self._log.warning("the wall clock is believed after a jump", off_ms=was_off_ms)
        elif off_ms and not was_off_ms:
            self._log.warning(
                "the wall clock has jumped; time goes on as before until that has lasted",
                off_ms=off_ms,
                lasts_ms=JUMP_LASTS_MS,
            )
        elif was_off_ms and not off_ms:
            self._log.warning("the wall clock is back; its jump counts for nothing")

    def finish(self, writer: Writer) -> None:
        """Log what storage did not take before the end."""
        for result in writer.take_results():
            if isinstance(result, Committed):
                self._measures.committed(result.groups)
        if self._measures.groups_waiting:
            self._log.error(
                "stopped before storage took everything; what it lacks was not acknowledged, "
                "unless it is of level async",
                reason=self._trouble or "it was too slow",
                groups=self._measures.groups_waiting,
                log_bytes=self._measures.bytes_waiting,
                waited_ms=self._measures.lag_ms(self._clock.mono_ms()),
            )
        self.log_dropped()

    def log_dropped(self) -> None:
        """Log what the engine could not make sense of."""
        if self._coordinator.dropped:
            self._log.info("dropped", **self._coordinator.dropped)


def _send(coordinator: Coordinator, socket: zmq.Socket[bytes]) -> None:
    for to, frames in coordinator.take_parcels():
        try:
            send(socket, to, frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            coordinator.undeliverable(to)


def _listen(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    # Marks count from the bind on. None is needed here: shards bound what they have not been told
    # is safe, and ask for their recovery piece by piece.
    socket.set_hwm(0)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from error
    return socket


def main() -> int:
    """The command `flashq-coordinator`."""
    parser = flag_parser(PROGRAM, "Storage, crons and epochs of a flashq server.")
    return run_alone(PROGRAM, parser.parse_args(), run)


if __name__ == "__main__":
    sys.exit(main())
