"""The coordinator as a process: real sockets, with a shard and clients that are played."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest
import zmq

from flashq.config import configuration_hash
from flashq.ids import shard_of_queue
from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import INTERNAL, ROUTE_ANY, ROUTE_COORDINATOR, pack_header
from flashq.protocol.internal import (
    Append,
    Fetch,
    Fire,
    Granted,
    Internal,
    Mail,
    Recovered,
    Safe,
    ShardHello,
    ShardReady,
    decode_internal,
    encode_internal,
)
from tests.integration.programs import SHARDS, Program, Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A place for programs."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def coordinator(site: Site) -> Program:
    """A coordinator that is ready."""
    return site.start("coordinator").until_ready()


class Shard:
    """A shard as the coordinator sees it."""

    def __init__(self, site: Site, index: int, identity: bytes) -> None:
        self._index = index
        self._hash = configuration_hash(site.settings)
        self.socket = site.dealer(site.settings.run().coordinator, identity)
        self.epoch = 0

    def say(self, message: Internal) -> None:
        """Tell the coordinator something."""
        header = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)
        self.socket.send_multipart([header, encode_internal(message)])

    def hear(self) -> Any:
        """Wait for the coordinator's next word."""
        _, body = self.socket.recv_multipart()
        return decode_internal(body)

    def greet(self) -> Granted:
        """Say hello, and take the epoch."""
        self.say(ShardHello(shard=self._index, config_hash=self._hash))
        granted = self.hear()
        assert isinstance(granted, Granted)
        self.epoch = granted.epoch
        return granted

    def be_ready(self) -> None:
        """Say that it serves."""
        self.say(ShardReady(shard=self._index, epoch=self.epoch))

    def append(self, first: int, last: int, records: bytes) -> None:
        """Send a piece of its log."""
        self.say(
            Append(
                shard=self._index,
                epoch=self.epoch,
                first_seq=first,
                last_seq=last,
                records=records,
                checksum=crc32(records),
                awaited=True,
            )
        )


@pytest.mark.usefixtures("coordinator")
def test_a_killed_shard_comes_back_with_its_log(site: Site) -> None:
    """Everything that was safe, in pieces of bounded size."""
    old = Shard(site, 0, b"old")
    old.greet()
    old.be_ready()
    for seq in range(1, 4):
        old.append(seq, seq, b"%d" % seq * 3_000_000)
        assert old.hear() == Safe(epoch=old.epoch, seq=seq)
    old.socket.close()

    new = Shard(site, 0, b"new")
    assert new.greet().epoch > old.epoch
    log: list[int] = []
    cursor = 0
    while not log or cursor:
        new.say(Fetch(epoch=new.epoch, cursor=cursor))
        part = new.hear()
        assert isinstance(part, Recovered)
        assert len(part.log) == 1
        log += [first for first, _, _ in part.log]
        cursor = part.cursor
    assert log == [1, 2, 3]


@pytest.mark.usefixtures("coordinator")
def test_a_cron_set_by_a_client_reaches_its_shard(site: Site) -> None:
    """By way of a real router: set, fired a millisecond later, mailed to the shard."""
    router = site.start("router").until_ready()
    index = shard_of_queue("q", SHARDS)
    shard = Shard(site, index, b"shard")
    shard.greet()
    shard.be_ready()
    client = site.dealer(router.endpoints[0])
    request = {"cmd": "CRON", "name": "n", "queue": "q", "data": 5, "repeat_every": 1, "limit": 1}
    client.send_multipart([pack_header(0, ROUTE_ANY, 4), encode(request)])
    _, body = client.recv_multipart()
    assert decode(body, dict) == {"ok": True}
    mail = shard.hear()
    assert isinstance(mail, Mail)
    assert isinstance(mail.body, Fire)
    assert (mail.body.name, mail.body.queue, mail.body.data) == ("n", "q", b"\x05")


def test_it_serves_until_the_shards_have_gone(site: Site, coordinator: Program) -> None:
    """A shard that drains still gets its log safe; then the coordinator exits with 0."""
    shard = Shard(site, 0, b"shard")
    shard.greet()
    coordinator.stop()
    assert shard.hear() == Safe(epoch=shard.epoch, seq=0)
    shard.append(1, 1, b"last")
    while shard.hear() != Safe(epoch=shard.epoch, seq=1):
        pass
    shard.socket.close()
    assert coordinator.finish() == (0, "")


def test_garbage_hurts_nobody(site: Site, coordinator: Program) -> None:
    """The next shard is served."""
    stranger = site.socket(zmq.DEALER)
    stranger.connect(site.settings.run().coordinator)
    for frames in ([b""], [b"x", b"y"], [pack_header(INTERNAL, 0, 0), b"\xc1"]):
        stranger.send_multipart(frames)
    shard = Shard(site, 1, b"shard")
    assert shard.greet().epoch
    coordinator.stop()
    shard.socket.close()
    status, log = coordinator.finish()
    assert status == 0
    assert "unreadable message" in log
