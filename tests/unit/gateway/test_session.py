"""One downstream connection: what it is answered, in which order, and what it may not do."""

from __future__ import annotations

import json
from functools import partial

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.gateway.exchanges import OPEN_MAX, READS_OPEN_MAX, WAITS_OPEN_MAX
from flashq.gateway.session import Conversation
from flashq.tokens import ATTEMPTS_MAX, Keyring, entry_text, read_entries
from tests.unit.gateway.port import FakePort, Talk


class TestReplies:
    def test_a_reply_begins_with_the_request_id(self) -> None:
        """Clients that share a connection find their reply by it; one searches the raw text."""
        talk = Talk()
        talk.line(cmd="PUSH", queue="q", data=1, reqId="r1")
        talk.port.asked[0].answer(id=7)
        assert talk.output().replace(b" ", b"") == b'{"reqId":"r1","ok":true,"id":7}\n'

    def test_a_frame_is_answered_by_a_frame(self) -> None:
        """The binary mode has the same keys, in the same order."""
        talk = Talk()
        talk.frame(cmd="PUSH", queue="q", data=1, reqId="r1")
        talk.port.asked[0].answer(id=7)
        (reply,) = talk.frames()
        assert list(reply.items()) == [("reqId", "r1"), ("ok", True), ("id", 7)]

    @pytest.mark.parametrize("request_id", ["r1", 'é\n"', 7, -1, 2**63])
    def test_any_string_or_number_is_echoed_as_it_came(self, request_id: str | int) -> None:
        """A client must recognise its own id."""
        talk = Talk()
        talk.line(cmd="STATS", reqId=request_id)
        talk.port.asked[0].answer()
        assert talk.lines()[0]["reqId"] == request_id

    def test_null_is_no_request_id(self) -> None:
        """The binary client sends nil for everything it was not given."""
        talk = Talk()
        talk.frame(cmd="STATS", reqId=None)
        talk.port.asked[0].answer()
        assert talk.frames() == [{"ok": True}]

    def test_another_type_is_refused(self) -> None:
        """What cannot be an id is not echoed."""
        talk = Talk()
        talk.line(cmd="STATS", reqId=["r"])
        (reply,) = talk.lines()
        assert list(reply) == ["ok", "error"]
        assert reply["error"].startswith("Invalid: invalid type")

    def test_an_error_has_two_keys(self) -> None:
        """Older clients know of no codes, and their tests compare whole replies."""
        talk = Talk()
        talk.line(cmd="ACK", id=5)
        talk.port.asked[0].answer(ok=False, error="Job 5 not found", code="job_not_found")
        assert talk.output() == b'{"ok":false,"error":"Job 5 not found"}\n'

    def test_line_feeds_of_a_payload_do_not_end_the_line(self) -> None:
        """A payload that was pushed over HTTP is kept as it came, and may be written over lines."""
        talk = Talk()
        talk.conversation.receive(b'{"cmd":"GETRESULT","id":4}\n')
        asked = talk.port.asked[0]
        assert asked._done is not None
        asked._done(b'{"ok":true,"id":4,"result":{\n "a": 1\n}}', True)
        output = talk.output()
        assert output.count(b"\n") == 1
        assert json.loads(output)["result"] == {"a": 1}

    def test_a_batch_gives_the_ids_of_what_was_accepted(self) -> None:
        """Two of the older clients cannot read null among the ids."""
        talk = Talk()
        talk.line(cmd="PUSHB", queue="q", jobs=[{"data": 1}, {"data": 2}])
        errors = [{"index": 0, "error": "Duplicate job with key: k", "code": "duplicate"}]
        talk.port.asked[0].answer(ids=[None, 8], errors=errors)
        assert talk.lines() == [{"ok": True, "ids": [8], "errors": errors}]


class TestOrder:
    def test_requests_with_an_id_are_answered_as_they_are_done(self) -> None:
        """1. a pull waits; 2. an ack comes behind it: it must not wait for the pull's end."""
        talk = Talk()
        talk.line(cmd="PULL", queue="q", timeout=60000, reqId="a")
        talk.line(cmd="ACK", id=4, reqId="b")
        talk.port.asked[1].answer()
        assert talk.lines() == [{"reqId": "b", "ok": True}]
        talk.port.asked[0].answer(job=None)
        assert talk.lines() == [{"reqId": "a", "ok": True, "job": None}]

    def test_requests_without_an_id_are_answered_in_their_order(self) -> None:
        """Their client can only count."""
        talk = Talk()
        for queue in "abc":
            talk.line(cmd="COUNT", queue=queue)
        first, second, third = talk.port.asked
        third.answer(count=3)
        second.answer(count=2)
        assert talk.lines() == []
        first.answer(count=1)
        assert [reply["count"] for reply in talk.lines()] == [1, 2, 3]

    def test_nothing_without_an_id_passes_a_blocking_request_without_one(self) -> None:
        """Only what was answered may be built upon; requests with an id are another's."""
        talk = Talk()
        talk.line(cmd="PULL", queue="q", timeout=60000)
        talk.line(cmd="RESUME", queue="q")
        talk.line(cmd="PULL", queue="q", timeout=60000)
        talk.line(cmd="COUNT", queue="q")
        talk.line(cmd="STATS", reqId="s")
        assert [asked.word for asked in talk.port.asked] == ["PULL", "STATS"]
        talk.port.asked[0].answer(job=None)
        assert [asked.word for asked in talk.port.asked] == ["PULL", "STATS", "RESUME", "PULL"]
        talk.port.asked[3].answer(job=None)
        assert talk.port.asked[4].word == "COUNT"
        talk.port.asked[4].answer(count=0)
        talk.port.asked[2].answer()
        assert [list(reply) for reply in talk.lines()] == [
            ["ok", "job"],
            ["ok"],
            ["ok", "job"],
            ["ok", "count"],
        ]

    def test_an_error_found_here_keeps_its_turn(self) -> None:
        """A line that cannot be read is answered after the requests before it."""
        talk = Talk()
        talk.line(cmd="STATS")
        talk.conversation.receive(b"{nonsense\n")
        assert talk.lines() == []
        talk.port.asked[0].answer()
        assert [reply["ok"] for reply in talk.lines()] == [True, False]

    def test_too_many_open_requests_stop_the_reading(self) -> None:
        """What is read must be kept, so that reading has to end somewhere; it goes on later."""
        self.read_up_to(OPEN_MAX, cmd="PUSH", queue="q", data=1)

    @pytest.mark.parametrize("cmd", ["GETJOB", "GETJOBS", "GETRESULT", "STATS"])
    def test_replies_that_may_be_large_count_before_they_are_made(self, cmd: str) -> None:
        """400 requests for a job of 1 MB, and nobody who reads: memory for 8 of them is taken."""
        self.read_up_to(READS_OPEN_MAX, cmd=cmd, id=4)

    @pytest.mark.parametrize("cmd", ["PULL", "WAITJOB"])
    def test_waits_that_may_all_end_at_once_are_bounded(self, cmd: str) -> None:
        """Each may bring a job."""
        self.read_up_to(WAITS_OPEN_MAX, cmd=cmd, queue="q", id=4, timeout=1000)

    def read_up_to(self, bound: int, **fields: object) -> None:
        """Send too many requests, and see that they are read as room is made."""
        talk = Talk()
        one = json.dumps({**fields, "reqId": "r"}).encode() + b"\n"
        talk.conversation.receive(one * (bound + 5))
        assert len(talk.port.asked) == bound
        assert not talk.conversation.wants_more
        assert talk.conversation.pending_bytes == 5 * (len(one) - 1)
        talk.port.asked[0].answer()
        talk.conversation.proceed()
        assert len(talk.port.asked) == bound + 1
        for asked in list(talk.port.asked):
            if asked is not talk.port.asked[0]:
                asked.answer()
        talk.conversation.proceed()
        assert talk.conversation.wants_more

    def test_a_client_that_does_not_read_is_not_asked_for_more(self) -> None:
        """Its replies would pile up."""
        talk = Talk()
        talk.conversation.is_output_blocked = True
        talk.line(cmd="STATS")
        assert not talk.port.asked
        assert not talk.conversation.wants_more
        talk.conversation.is_output_blocked = False
        talk.conversation.proceed()
        assert talk.port.asked


class TestLeniency:
    def test_whole_floats_are_repaired_before_or_after_the_shard(self) -> None:
        """JavaScript and PHP have floats where an integer is meant."""
        talk = Talk()
        talk.line(cmd="GETJOB", id=5.0)
        assert talk.port.asked[0].fields["id"] == 5
        talk.line(cmd="PUSH", queue="q", data=1.0, delay=10.0)
        invalid = {"ok": False, "code": "invalid", "error": "Invalid: invalid type: …"}
        talk.port.asked[1].answer(**invalid)
        assert talk.port.asked[2].fields == {
            "cmd": "PUSH",
            "queue": "q",
            "data": 1.0,
            "delay": 10,
        }
        talk.port.asked[2].answer(id=3)
        talk.port.asked[0].answer(job=None)
        assert [reply["ok"] for reply in talk.lines()] == [True, True]

    def test_what_cannot_be_repaired_is_asked_once(self) -> None:
        """The shard's complaint is the answer."""
        talk = Talk()
        talk.line(cmd="PUSH", queue="q", data=1, delay=-1)
        invalid = {"ok": False, "code": "invalid", "error": "Invalid: too small"}
        talk.port.asked[0].answer(**invalid)
        assert len(talk.port.asked) == 1
        assert talk.lines() == [{"ok": False, "error": "Invalid: too small"}]


class TestErrors:
    @pytest.mark.parametrize(
        ("sent", "words"),
        [
            (b"\n", "Invalid: "),
            (b"\r\n", "Invalid: "),
            (b"{\n", "Invalid: "),
            (b"{} x\n", "Invalid: "),
            (b'{"queue":"q"}\n', "missing field `cmd`"),
            (b'{"cmd":"push"}\n', "unknown variant"),
            (b'{"cmd":"HELLO","session":"AAAAAAAAAAAAAAAAAAAAAA=="}\n', "unknown variant"),
            (b'{"cmd":7}\n', "invalid type"),
            (b'{"cmd":"ACK","id":"5"}\n', "invalid type"),
            (b'{"cmd":"ACK"}\n', "missing field `id`"),
            (b'{"cmd":"PUSH","queue":"\xff"}\n', "Invalid: "),
        ],
    )
    def test_a_line_that_is_no_request(self, sent: bytes, words: str) -> None:
        """The text begins as older clients expect, and the connection goes on."""
        talk = Talk()
        talk.conversation.receive(sent if sent[:1] in (b"{", b"\n", b"\r") else b"{}" + sent)
        (reply,) = talk.lines()
        assert reply["ok"] is False
        assert reply["error"].startswith("Invalid: ")
        assert words in reply["error"]
        talk.line(cmd="STATS")
        assert talk.port.asked

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x93\x01\x02\x03", b"\x81\xa3cmd", b"\xc1", b"\x81\xa3cmd\xa4NOPE", b"\x80\x00"],
    )
    def test_a_frame_that_is_no_request(self, body: bytes) -> None:
        """The same in the words of the binary mode."""
        talk = Talk()
        talk.conversation.receive(len(body).to_bytes(4, "big") + body)
        (reply,) = talk.frames()
        assert reply["error"].startswith("MessagePack deserialize error: ")
        talk.frame(cmd="STATS")
        assert talk.port.asked

    def test_a_shards_complaint_about_a_frame_is_put_into_its_words(self) -> None:
        """The shard does not know over which door a request came."""
        talk = Talk()
        talk.frame(cmd="PUSH", queue="q", reqId="x")
        error = "Invalid: missing field `data`"
        talk.port.asked[0].answer(ok=False, code="invalid", error=error)
        wanted = "MessagePack deserialize error: missing field `data`"
        assert talk.frames() == [{"reqId": "x", "ok": False, "error": wanted}]

    @pytest.mark.parametrize(
        "sent",
        [
            b'{"cmd":"NOPE","reqId":"r5"}\n',
            b'{"reqId" : "r5","cmd":"PUSH",nonsense}\n',
            b'{"cmd":"PUSH","queue":5,"reqId":"r5"}\n',
            b'{"cmd":"STATS","reqId":"r5"} x\n',
        ],
    )
    def test_the_id_of_a_broken_request_is_found(self, sent: bytes) -> None:
        """Without it the TypeScript client would report a time-out instead of the mistake."""
        talk = Talk()
        talk.conversation.receive(sent)
        (reply,) = talk.lines()
        assert reply["reqId"] == "r5"
        assert reply["ok"] is False

    def test_a_line_that_is_too_long_is_answered_and_skipped(self) -> None:
        """It comes in pieces, is never kept as a whole, and the next line is a request again."""
        talk = Talk(bytes_max=100)
        talk.conversation.receive(b'{"cmd":"PUSH","reqId":"r1","data":"')
        for _ in range(50):
            talk.conversation.receive(b"x" * 50)
        assert talk.lines() == [{"reqId": "r1", "ok": False, "error": "Message too large"}]
        talk.conversation.receive(b'"}\n{"cmd":"STATS"}\n')
        assert talk.lines() == []
        assert [asked.word for asked in talk.port.asked] == ["STATS"]

    def test_a_frame_that_is_too_long_is_answered_and_skipped(self) -> None:
        """The stream stays in step."""
        talk = Talk(bytes_max=100)
        talk.conversation.receive((101).to_bytes(4, "big") + b"x" * 60)
        assert talk.frames() == [{"ok": False, "error": "Message too large"}]
        body = msgpack.packb({"cmd": "STATS"})
        talk.conversation.receive(b"x" * 41 + len(body).to_bytes(4, "big") + body)
        assert [asked.word for asked in talk.port.asked] == ["STATS"]

    def test_what_is_no_frame_at_all_is_answered_and_closed(self) -> None:
        """An HTTP request, say, reads as a frame of a gigabyte."""
        talk = Talk()
        talk.conversation.receive(b"GET / HTTP/1.1\r\n\r\n")
        assert talk.frames() == [{"ok": False, "error": "Message too large"}]
        assert talk.conversation.is_finished

    def test_a_batch_beyond_the_doors_bound(self) -> None:
        """Over this door a batch is a thousand; the text says both numbers."""
        jobs = [{"data": 1}] * 1001
        for send in ("line", "frame"):
            talk = Talk()
            getattr(talk, send)(cmd="PUSHB", queue="q", jobs=jobs)
            assert not talk.port.asked
            (reply,) = talk.lines() if send == "line" else talk.frames()
            assert reply == {"ok": False, "error": "Batch too large (1001 jobs, max 1000)"}

    def test_a_busy_gateway_says_so(self) -> None:
        """What the bridge does not take on is an answer too."""
        talk = Talk()
        talk.line(cmd="ACKB", ids=[])
        talk.port.asked[0].answer(ok=False, code="busy", error="busy: 3 bytes", retryable=True)
        assert talk.lines() == [{"ok": False, "error": "busy: 3 bytes"}]


class TestAuthentication:
    def test_nothing_but_auth_before_a_token(self) -> None:
        """The connection stays open, and a wrong token does not close it either."""
        talk = Talk("secret", "other")
        talk.line(cmd="STATS", reqId="a")
        talk.line(cmd="AUTH", token="wrong")
        talk.line(cmd="AUTH", token="other")
        talk.line(cmd="AUTH", token="wrong")
        talk.line(cmd="STATS")
        assert talk.lines() == [
            {"reqId": "a", "ok": False, "error": "Authentication required"},
            {"ok": False, "error": "Invalid token"},
            {"ok": True},
            {"ok": False, "error": "Invalid token"},
        ]
        assert [asked.word for asked in talk.port.asked] == ["STATS"]

    def test_a_request_that_does_not_parse_is_told_so_first(self) -> None:
        """Its client has a mistake that a token would not mend."""
        talk = Talk("secret")
        talk.line(cmd="PUSH", queue="q")
        talk.line(cmd="NOPE")
        assert ["Invalid: " in reply["error"] for reply in talk.lines()] == [True, True]

    def test_a_token_opens_what_its_role_and_queues_allow(self) -> None:
        """What is refused is not passed on; jobs by id go on with the condition."""
        talk = Talk(entries=read_entries(entry_text("w", "worker", ["mail-*"]), "f"))
        talk.line(cmd="AUTH", token="w")
        talk.line(cmd="PUSH", queue="mail-1", data=1)
        talk.line(cmd="PULL", queue="other")
        talk.line(cmd="SUBSCRIBE", queue="*", events=["*"])
        talk.line(cmd="SUBSCRIBE", queue="mail-1", events=["*"])
        talk.line(cmd="LISTQUEUES")
        said = [reply.get("error", "ok").partition(":")[0] for reply in talk.lines()]
        assert said == ["ok", "Not allowed", "Not allowed", "Not allowed", "ok", "Not allowed"]
        assert talk.port.asked == []
        talk.line(cmd="ACK", id=4, within=["*"])
        talk.line(cmd="PULL", queue="mail-1")
        ack, pull = talk.port.asked
        assert ack.fields["within"] == ["mail-*"]
        assert pull.word == "PULL"

    def test_a_repaired_request_is_bounded_too(self) -> None:
        """Its number came with a point, which the shard refused."""
        talk = Talk(entries=read_entries(entry_text("w", "worker", ["mail-*"]), "f"))
        talk.line(cmd="AUTH", token="w")
        talk.line(cmd="PROGRESS", id=4, progress=50.0)
        (first,) = talk.port.asked
        first.answer(ok=False, code="invalid", error="Invalid: progress")
        again = talk.port.asked[-1]
        assert again is not first
        assert again.fields["within"] == ["mail-*"]

    def test_other_tokens_end_a_connections_rights(self) -> None:
        """And its listening."""
        talk = Talk("secret")
        talk.line(cmd="AUTH", token="secret")
        talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
        assert [reply["ok"] for reply in talk.lines()] == [True, True]
        talk.guard.replace(Keyring(["new"]))
        talk.line(cmd="STATS")
        assert talk.lines() == [{"ok": False, "error": "Authentication required"}]
        assert len(talk.port.fan) == 0

    def test_wrong_tokens_of_one_address_are_limited(self) -> None:
        """Over all its connections."""
        talk = Talk("secret")
        for _ in range(ATTEMPTS_MAX + 1):
            talk.line(cmd="AUTH", token="wrong")
        talk.line(cmd="AUTH", token="secret")
        texts = [reply["error"] for reply in talk.lines()]
        assert texts[:ATTEMPTS_MAX] == ["Invalid token"] * ATTEMPTS_MAX
        assert all(text.startswith("Too many attempts") for text in texts[ATTEMPTS_MAX:])
        talk.conversation.address = "10.0.0.9"
        talk.line(cmd="AUTH", token="secret")
        assert talk.lines() == [{"ok": True}]

    def test_without_tokens_any_is_good(self) -> None:
        """A client that has one configured works against an open server."""
        talk = Talk()
        talk.line(cmd="AUTH", token="anything")
        assert talk.lines() == [{"ok": True}]


class TestEnds:
    def test_a_lost_connection_gives_back_what_it_had(self) -> None:
        """And what is still answered goes nowhere."""
        talk = Talk()
        talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
        talk.line(cmd="PULL", queue="q", timeout=1000)
        talk.output()
        talk.conversation.lost()
        assert len(talk.port.left) == 1
        assert len(talk.port.fan) == 0
        talk.port.asked[0].answer(job=None)
        assert talk.output() == b""

    def test_a_last_line_without_its_end_is_answered(self) -> None:
        """`printf '{"cmd":"STATS"}' | nc` works."""
        talk = Talk()
        talk.conversation.receive(b'{"cmd":"STATS"}')
        assert not talk.port.asked
        talk.conversation.eof()
        assert not talk.conversation.is_finished
        talk.port.asked[0].answer()
        assert talk.lines() == [{"ok": True}]
        assert talk.conversation.is_finished

    def test_giving_up_answers_what_waits(self) -> None:
        """Nobody could work on a job that still came; a change that was asked is still told."""
        talk = Talk()
        talk.line(cmd="PULL", queue="q", timeout=1000, reqId=1)
        talk.line(cmd="WAITJOB", id=4, reqId=2)
        talk.line(cmd="ACK", id=4, reqId=3)
        talk.line(cmd="PULLB", queue="q", count=2, timeout=1000)
        talk.line(cmd="PULLB", queue="q", count=2, timeout=1000)
        talk.conversation.eof()
        assert talk.conversation.is_waiting
        talk.conversation.give_up(is_lost=False)
        assert len(talk.port.left) == 1
        nothing = {"ok": True, "jobs": [], "job": None}
        assert talk.lines() == [
            {"reqId": 1, "ok": True, "job": None},
            {"reqId": 2, "ok": False, "error": "Connection closed"},
            nothing,
            nothing,
        ]
        assert not talk.conversation.is_finished
        talk.port.asked[2].answer()
        assert talk.lines() == [{"reqId": 3, "ok": True}]
        assert talk.conversation.is_finished

    def test_many_pulls_behind_each_other_end_together(self) -> None:
        """Each lets the next one go on, and none of them may stand on the other's stack."""
        talk = Talk()
        for _ in range(WAITS_OPEN_MAX):
            talk.line(cmd="PULL", queue="q", timeout=1000)
        talk.conversation.give_up(is_lost=False)
        assert talk.lines() == [{"ok": True, "job": None}] * WAITS_OPEN_MAX

    def test_whose_jobs_count_as_lost(self) -> None:
        """The older protocol has no goodbye: a client that is gone has lost what it held. A server
        that drains has not."""
        for end, is_lost in (
            (Conversation.lost, True),
            (partial(Conversation.give_up, is_lost=True), True),
            (partial(Conversation.give_up, is_lost=False), False),
        ):
            talk = Talk()
            end(talk.conversation)
            assert talk.port.lost == [is_lost]

    def test_nothing_is_read_after_the_end(self) -> None:
        """What a peer sends behind its own end is not a request."""
        talk = Talk()
        talk.conversation.eof()
        talk.line(cmd="STATS")
        assert not talk.port.asked


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b'{"cmd":"STATS","reqId":"r"}\n',
            b'{"cmd":"PULL","queue":"q"}\n',
            b'{"cmd":"PUSHB","queue":"q","jobs":[{"data":1}]}\n',
            b'{"cmd":"AUTH","token":"x"}\n',
            b'{"cmd":"PUSH","queue":"\\ud800","data":1}\n',
            b"\n",
            b"\x00\x00\x00\x0b\x81\xa3cmd\xa5STATS",
            b"\x00\x00\x00\x07\x81\xa3cmd\xa1X",
            b"\x00\xff\xff\xff",
            b"\x04\x00\x00\x00",
        ]
    ),
)


class TestAnyBytes:
    @given(pieces=st.lists(PIECES, max_size=30), cuts=st.lists(st.integers(1, 60), max_size=30))
    def test_any_bytes_in_any_pieces_are_survived(
        self, pieces: list[bytes], cuts: list[int]
    ) -> None:
        """Whatever comes, nothing raises, and every reply is a reply."""
        talk = Talk(bytes_max=64)
        stream = b"".join(pieces)
        start = 0
        for cut in [*cuts, len(stream) or 1]:
            talk.conversation.receive(stream[start : start + cut])
            start += cut
        for asked in talk.port.asked:
            asked.answer()
        talk.conversation.proceed()
        replies = talk.lines() if stream[:1] in (b"{", b"\n", b"\r") else talk.frames()
        assert all(isinstance(reply["ok"], bool) for reply in replies)
        talk.conversation.eof()
        talk.conversation.give_up(is_lost=False)
        talk.conversation.lost()

    @given(stream=st.lists(PIECES, max_size=10), cut=st.integers(1, 7))
    def test_the_pieces_in_which_bytes_come_do_not_matter(
        self, stream: list[bytes], cut: int
    ) -> None:
        """TCP keeps no boundaries."""
        data = b"".join(stream)
        outputs = []
        for size in (cut, max(1, len(data))):
            port = FakePort()
            conversation = Conversation(port, bytes_max=64)
            for start in range(0, len(data), size):
                conversation.receive(data[start : start + size])
            conversation.eof()
            asked = [(one.word, one.ask.body) for one in port.asked]
            outputs.append((asked, b"".join(conversation.data_to_send())))
        assert outputs[0] == outputs[1]
