"""How path, query and body become the request that a shard reads."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from flashq.errors import BadMessage, BatchTooLarge, InvalidRequest, ParameterInvalid
from flashq.gateway.http_requests import (
    ask_with_body,
    ask_with_parameters,
    job_id_of,
    open_fields,
    path_fields,
    takes_body,
    whole_number,
)
from flashq.protocol.codec import decode_request
from flashq.protocol.registry import BY_WORD

PUSH = BY_WORD["PUSH"]
ACKB = BY_WORD["ACKB"]


def test_a_body_passes_between_word_and_path() -> None:
    """Its bytes are not touched, and what the path says is last, where it wins."""
    ask = ask_with_body(PUSH, {"queue": "q"}, b' { "data" : {"z":1.50, "a": [] } , "queue":"x"} ')
    assert ask.body == b'{"cmd":"PUSH","data" : {"z":1.50, "a": [] } , "queue":"x","queue":"q"}'
    assert ask.outline.queue == "q"
    assert decode_request(ask.body, json=True).queue == "q"


def test_an_empty_object_is_a_body() -> None:
    """ACK needs no more."""
    assert ask_with_body(BY_WORD["ACK"], {"id": "7"}, b"{}").body == b'{"cmd":"ACK","id":7}'


def test_a_command_without_names_in_its_path_takes_all_from_the_body() -> None:
    """Nothing is behind the members then, and no comma either."""
    assert ask_with_body(ACKB, {}, b'{"ids":[1]}').body == b'{"cmd":"ACKB","ids":[1]}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":1}}',
        b'{"data":1},{"x":2}',
        b'{"data":1,}',
        b'{"ids":[1],}',
        b"{,}",
        b'{"data":{"a":1}',
        b'{"data":"}',
        b'{"data":"a\\}',
        b"{",
        b"}{",
        b"",
        b'{"a":"\xc3"}',
    ],
)
@pytest.mark.parametrize("word", ["PUSH", "ACKB", "ACK"])
def test_braces_and_commas_cannot_be_turned_into_a_request(word: str, body: bytes) -> None:
    """What was no object before it was put together is none afterwards."""
    with pytest.raises(BadMessage):
        ask_with_body(BY_WORD[word], {"queue": "q", "id": "1"}, body)


@pytest.mark.parametrize("body", [b"[]", b"5", b'"{}"', b"null"])
def test_json_that_is_no_object_is_of_the_wrong_shape(body: bytes) -> None:
    """Not a broken message, but none for this path."""
    with pytest.raises(InvalidRequest) as refused:
        ask_with_body(PUSH, {"queue": "q"}, body)
    assert refused.value.http_status == 422


def test_a_body_cannot_name_another_command() -> None:
    """The path's rights were checked, and not those of the other."""
    for body in (b'{"cmd":"OBLITERATE","data":1}', b'{"data":1,"cmd":"STATS"}'):
        with pytest.raises(InvalidRequest):
            ask_with_body(PUSH, {"queue": "q"}, body)


def test_a_body_is_refused_in_the_words_for_what_was_sent() -> None:
    """The byte that is wrong is counted in the body, not in what was made of it."""
    with pytest.raises(BadMessage, match="byte 9"):
        ask_with_body(PUSH, {"queue": "q"}, b'{"data":nope}')


def test_whole_floats_are_repaired() -> None:
    """Some clients write 5.0 for 5."""
    ask = ask_with_body(BY_WORD["WAITJOB"], {"id": "3"}, b'{"timeout":5.0}')
    assert ask.outline.timeout == 5


def test_batches_are_bounded() -> None:
    """A thousand jobs or ids."""
    ids = json.dumps({"ids": list(range(1001))}).encode()
    with pytest.raises(BatchTooLarge):
        ask_with_body(ACKB, {}, ids)
    jobs = json.dumps({"jobs": [{"data": 1}] * 1001}).encode()
    with pytest.raises(BatchTooLarge):
        ask_with_body(BY_WORD["PUSHB"], {"queue": "q"}, jobs)


def test_path_and_query_make_a_request_without_a_body() -> None:
    """Texts become numbers."""
    query = {"limit": "5", "queue": "q", "token": "t", "_": "123"}
    ask = ask_with_parameters(BY_WORD["GETJOBS"], {}, query)
    assert json.loads(ask.body) == {"cmd": "GETJOBS", "limit": 5, "queue": "q"}
    ask = ask_with_parameters(BY_WORD["GETCHILDREN"], {"id": "7"}, {})
    assert json.loads(ask.body) == {"cmd": "GETCHILDREN", "parent_id": 7}


@pytest.mark.parametrize("query", [{"limit": "x"}, {"limit": "-1"}, {"limit": ""}])
def test_a_query_that_does_not_fit_is_refused(query: dict[str, str]) -> None:
    """By name."""
    with pytest.raises(ParameterInvalid, match="limit"):
        ask_with_parameters(BY_WORD["GETJOBS"], {}, query)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"stat": "failed"}, "unknown parameter `stat`; did you mean `state`?"),
        ({"x": "y"}, "unknown parameter `x`"),
        ({"cmd": "DRAIN"}, "unknown parameter `cmd`"),
    ],
)
def test_a_parameter_that_there_is_not_is_refused(query: dict[str, str], text: str) -> None:
    """A slip of the pen would list everything."""
    with pytest.raises(ParameterInvalid, match=re.escape(text) + "$"):
        ask_with_parameters(BY_WORD["GETJOBS"], {}, query)


def test_half_of_a_surrogate_pair_is_no_name() -> None:
    """It has no form in UTF-8."""
    with pytest.raises(ParameterInvalid):
        ask_with_parameters(BY_WORD["GETJOBS"], {}, {"queue": "\ud800"})


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "+1", "9007199254740992", "٣", "1" * 400])
def test_an_id_is_a_whole_number(text: str) -> None:
    """From 0 to 2**53 - 1, in ASCII."""
    with pytest.raises(ParameterInvalid):
        job_id_of(text)


def test_the_largest_id_is_one() -> None:
    """2**53 - 1."""
    assert job_id_of("9007199254740991") == 2**53 - 1


@pytest.mark.parametrize(
    ("query", "number"), [({}, 3), ({"n": "0"}, 0), ({"n": "8"}, 8), ({"n": "9" * 400}, 10)]
)
def test_a_number_from_the_query_is_bounded(query: dict[str, str], number: int) -> None:
    """Above its bound it is the bound."""
    assert whole_number(query, "n", 3, 10) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", " 1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    """By name."""
    with pytest.raises(ParameterInvalid, match="`n`"):
        whole_number({"n": text}, "n", 3, 10)


@pytest.mark.parametrize(
    ("word", "path", "others", "has_body"),
    [
        ("PUSH", {"queue": "queue"}, {"data", "priority", "job_id"}, True),
        ("HEARTBEAT", {"id": "id"}, {"token"}, True),
        ("GETCHILDREN", {"id": "parent_id"}, set(), False),
        ("GETJOBBYCUSTOMID", {"job_id": "job_id"}, {"queue"}, False),
        ("PAUSE", {"queue": "queue"}, set(), False),
        ("OBLITERATE", {"queue": "queue"}, set(), False),
    ],
)
def test_fields_are_found_in_path_and_rest(
    word: str, path: dict[str, str], others: set[str], has_body: bool
) -> None:
    """The gateway's own numbering is nobody else's to say."""
    command: Any = BY_WORD[word]
    assert path_fields(command) == path
    fields = set(open_fields(command))
    assert others <= fields
    assert not fields & {"session", "n", "done_below", *path.values()}
    assert takes_body(command) is has_body
