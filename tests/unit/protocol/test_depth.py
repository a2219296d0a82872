"""How deep a payload may nest: one bound, whatever carries it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from random import Random
from typing import Any, Final

import msgpack
import pytest

from flashq.errors import InvalidRequest
from flashq.protocol.depth import PAYLOAD_DEPTH_MAX, check_depth

MAX: Final = PAYLOAD_DEPTH_MAX
COST_MS_MAX: Final = 400
"""For a payload of 1 MiB; far above what is measured, as others work on the same machine."""


def nested(depth: int, inner: Any = 1, *, maps: bool = False) -> Any:
    """Return arrays or maps within each other."""
    for _ in range(depth):
        inner = {"a": inner} if maps else [inner]
    return inner


def is_taken(value: Any) -> bool:
    """Tell whether a value is taken in either encoding."""
    verdicts = set()
    for data, is_json in ((msgpack.packb(value), False), (json.dumps(value).encode(), True)):
        try:
            check_depth(data, json=is_json)
            verdicts.add(True)
        except InvalidRequest as error:
            assert "nests deeper than 100 levels" in error.text  # noqa: PT017
            verdicts.add(False)
    assert len(verdicts) == 1, "the same at every door"
    return verdicts.pop()


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("beside", [0, 200, 70_000])
def test_the_bound_is_the_bound(maps: bool, beside: int) -> None:
    """Whatever stands beside what is deep: arrays and maps of every size of head."""
    for depth, taken in ((MAX, True), (MAX + 1, False), (974 - MAX, False)):
        for value in (
            nested(depth, "x" * 200, maps=maps),
            nested(depth - 1, [0, {"b": "y", "c": [[]] * beside}, "x"], maps=maps)
            if depth <= MAX + 1 and not beside
            else nested(depth, maps=maps),
            [*[{}] * beside, nested(depth - 1, maps=maps)],
            {**{f"k{n}": [n] for n in range(beside)}, "k": nested(depth - 1, maps=maps)},
        ):
            assert is_taken(value) == (taken and _depth(value) <= MAX), (depth, str(value)[:50])


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize("seed", range(30))
def test_as_counted(seed: int) -> None:
    """Random values, of strings that look like brackets too."""
    random = Random(seed)
    texts = ["[" * 150, "]" * 90, '"[', "\\", '\\"[{', "x", "\u3042" * 40, ""]

    def value(left: int) -> Any:
        if left <= 0 or random.random() < 0.02:
            return random.choice([1, None, 2.5, True, 2**40, *texts])
        parts = [value(left - 1)] + [random.choice(texts) for _ in range(random.randrange(3))]
        random.shuffle(parts)
        if random.random() < 0.5:
            return parts
        return {random.choice(texts) + str(n): part for n, part in enumerate(parts)}

    for _ in range(20):
        made = value(random.choice((20, 99, 100, 101, 102, 150)))
        assert is_taken(made) == (_depth(made) <= MAX)


@pytest.mark.parametrize("key", [b'{"a":%s,"a":1}', b'{"a":1,"a":%s}'])
def test_a_key_that_stands_twice_hides_nothing(key: bytes) -> None:
    """A reader passes over what the later one replaces, too."""
    deep = json.dumps(nested(MAX)).encode()
    with pytest.raises(InvalidRequest):
        check_depth(key % deep, json=True)
    packed = msgpack.packb(nested(MAX))
    twice = b"\x82\xa1a" + packed + b"\xa1a\x01"
    with pytest.raises(InvalidRequest):
        check_depth(twice, json=False)


def test_a_key_can_be_deep() -> None:
    """In MessagePack it may be anything."""
    with pytest.raises(InvalidRequest):
        check_depth(b"\x81" + msgpack.packb(nested(MAX)) + b"\x01", json=False)


MIB: Final = 2**20


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + (MIB - 5).to_bytes(4, "big") + b"\x90" * (MIB - 5),
        b"\x92\x90" * 50 + b"\xdd" + (MIB - 105).to_bytes(4, "big") + b"\x90" * (MIB - 105),
        b"\x91" * 50 + b"\xdd" + (500_000).to_bytes(4, "big") + b"\x91\x90" * 500_000,
        b"\xdd" + (10_000).to_bytes(4, "big") + (b"\x91" * 99 + b"\x90") * 10_000,
        b"\xdd" + (5_000).to_bytes(4, "big") + (b"\x92\x01" * 98 + b"\x91\x01") * 5_000,
        b"[" + b"[]," * (MIB // 3) + b"1]",
        b"[" + (b"[" * 98 + b"]" * 98 + b",") * 5_000 + b"1]",
        b'["' + b'\\"' * (MIB // 2) + b'",' + b"[]," * 200 + b"1]",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_the_worst_costs_little(data: bytes) -> None:
    """It is not read into objects, nor passed over as often as it is deep."""
    began = time.process_time()
    with suppress(InvalidRequest):
        check_depth(data, json=data[:1] == b"[")
    assert (time.process_time() - began) * 1000 < COST_MS_MAX
