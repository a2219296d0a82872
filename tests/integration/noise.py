"""Requests with mistakes in them, from a seed: what programs send that nobody should send.

Owns a corpus of requests and the ways in which they are broken: members that are missing, doubled,
misspelt or of another type; numbers at and beyond every bound; texts that are no texts; bytes that
were flipped, cut, repeated or put in the middle. It sends nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

import msgpack

QUEUES: Final = ("noise-a", "noise-b", "noise-c", "noise-d")

CORPUS: Final[tuple[dict[str, Any], ...]] = (
    {"cmd": "PUSH", "queue": QUEUES[0], "data": {"a": [1, 2.5, None, "x"]}, "priority": 3},
    {"cmd": "PUSH", "queue": QUEUES[1], "data": 1, "delay": 5, "ttl": 9, "tags": ["a", "b"]},
    {"cmd": "PUSH", "queue": QUEUES[2], "data": 1, "unique_key": "k", "job_id": "custom"},
    {"cmd": "PUSHB", "queue": QUEUES[0], "jobs": [{"data": 1}, {"data": 2, "priority": 1}]},
    {"cmd": "FLOW", "queue": QUEUES[1], "data": 1, "children": [{"queue": QUEUES[2], "data": 2}]},
    {"cmd": "PULL", "queue": QUEUES[0], "timeout": 0},
    {"cmd": "PULLB", "queue": QUEUES[0], "count": 3, "timeout": 0},
    {"cmd": "ACK", "id": 5, "result": {"r": 1}, "token": 1},
    {"cmd": "ACKB", "ids": [1, 2, 3]},
    {"cmd": "FAIL", "id": 5, "error": "e"},
    {"cmd": "PROGRESS", "id": 5, "progress": 50, "message": "m"},
    {"cmd": "GETJOB", "id": 5},
    {"cmd": "GETJOBS", "queue": QUEUES[0], "state": "waiting", "limit": 5, "offset": 0},
    {"cmd": "GETJOBBYCUSTOMID", "job_id": "custom"},
    {"cmd": "GETJOBSBATCH", "ids": [1, 2, 3]},
    {"cmd": "CLEAN", "queue": QUEUES[0], "grace": 0, "state": "completed", "limit": 5},
    {"cmd": "RATELIMIT", "queue": QUEUES[3], "limit": 5},
    {"cmd": "SETCONCURRENCY", "queue": QUEUES[3], "limit": 5},
    {"cmd": "CHANGEPRIORITY", "id": 5, "priority": 1},
    {"cmd": "UPDATEJOB", "id": 5, "data": {"b": 1}},
    {"cmd": "MOVETODELAYED", "id": 5, "delay": 10},
    {"cmd": "LOG", "id": 5, "message": "m", "level": "info"},
    {"cmd": "CRON", "name": "noise", "queue": QUEUES[0], "data": 1, "schedule": "0 0 1 1 1 *"},
    {"cmd": "CRONDELETE", "name": "noise"},
    {"cmd": "DLQ", "queue": QUEUES[0], "count": 5},
    {"cmd": "RETRYDLQ", "queue": QUEUES[0]},
    {"cmd": "DRAIN", "queue": QUEUES[1]},
    {"cmd": "GETJOBCOUNTS", "queue": QUEUES[0]},
    {"cmd": "STATS"},
    {"cmd": "LISTQUEUES"},
    {"cmd": "AUTH", "token": "t"},
)

VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**31 - 1, 2**31, -(2**31) - 1),
    *(2**53 - 1, 2**53, 2**63, 2**64 - 1),
    *(0.5, 5.0, 1e308, "", "5", "\0", "a\nb", "\ud800", "\u202e", "x" * 300, "x" * 70_000),
    *([], [[]] * 50, {}, {"": ""}, list(range(2000)), {str(n): n for n in range(500)}),
    *(QUEUES[0], "waiting", "cancelled", "*", "../..", "%00", "'; --", b"\xff\xfe"),
)  # fmt: skip


def nested(depth: int) -> list[Any]:
    """Return a list in a list, so deep."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def broken(chance: random.Random) -> dict[str, Any]:
    """Return a request with up to three mistakes."""
    request = dict(chance.choice(CORPUS))
    for _ in range(chance.randrange(4)):
        name = chance.choice(list(request))
        match chance.randrange(6):
            case 0:
                request[name] = chance.choice(VALUES)
            case 1:
                request.pop(name)
            case 2:
                request[f"{name}s"] = request.pop(name)
            case 3:
                request[chance.choice(list(chance.choice(CORPUS)))] = chance.choice(VALUES)
            case 4:
                request["data"] = nested(chance.choice((3, 100, 900)))
            case _ if isinstance(request[name], list | dict):
                request[name] = [chance.choice(VALUES) for _ in range(chance.randrange(5))]
        if not request:
            break
    return request


def as_json(request: dict[str, Any]) -> bytes:
    """Return a request as JSON, with what JSON does not have."""
    text = json.dumps(request, default=lambda value: value.decode("latin-1"))
    return text.encode(errors="surrogatepass")


def as_msgpack(request: dict[str, Any]) -> bytes:
    """Return a request as MessagePack, with what it does not have."""
    return bytes(msgpack.packb(request, unicode_errors="surrogatepass"))


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with up to four of them flipped, cut, doubled or new."""
    found = bytearray(data)
    for _ in range(chance.randrange(5)):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(4):
            case 0 if place < len(found):
                found[place] ^= 1 << chance.randrange(8)
            case 1:
                del found[place : place + chance.randrange(1, 9)]
            case 2:
                found[place:place] = found[place : place + chance.randrange(1, 40)]
            case _:
                found[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(found)


def messages(seed: int, count: int, encode: Callable[[dict[str, Any]], bytes]) -> list[bytes]:
    """Return encoded requests of a seed, of which one in three is spoilt."""
    chance = random.Random(seed)
    encoded = [encode(broken(chance)) for _ in range(count)]
    return [data if chance.randrange(3) else spoilt(chance, data) for data in encoded]
