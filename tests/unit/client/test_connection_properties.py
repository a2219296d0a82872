"""Whatever the network does to messages, an answer reaches the request it is for, once."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flashq.client.results import Delivered
from flashq.protocol import jobs, leases
from flashq.protocol.framing import DELIVERY, REPLY, pack_header
from tests.unit.client.script import Script, Sent, connected, delivered

SHARDS_QUEUES = ["a", "b", "c"]

STEPS = st.one_of(
    st.tuples(st.sampled_from(["push", "pull", "get"]), st.sampled_from(SHARDS_QUEUES)),
    st.tuples(
        st.sampled_from(["answer", "answer", "copy", "lose", "busy", "bring"]), st.integers(0, 50)
    ),
    st.tuples(st.just("reconnect"), st.integers(0, 1)),
    st.tuples(st.just("restart"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(1, 800)),
    st.tuples(st.just("abandon"), st.integers(0, 50)),
)


class Network:
    """A server that remembers its answers by request number, behind a network that does not care.

    A request's answer is derived from its corr, so that a wrong match shows.
    """

    def __init__(self) -> None:
        self.script: Script = connected()
        #: requests that reached the server, in any order
        self.arrived: list[Sent] = []
        #: answers that may be brought again
        self.answered: list[Sent] = []
        self.asked: dict[int, str] = {}
        self.outcomes: dict[int, Any] = {}
        self.abandoned: set[int] = set()
        self.released: set[int] = set()
        self.epoch = 1

    def step(self, word: str, value: Any) -> None:
        """Let one thing happen, and check what came of it."""
        getattr(self, f"_{word}")(value)
        self.script.tick()
        for sent in self.script.sent():
            if sent.word == "HELLO":
                self.script.hello(sent)
            elif sent.word == "RELEASE":
                self.released.update(sent.body["ids"])
                self.script.answer(sent, count=len(sent.body["ids"]))
            elif sent.word != "SESSIONHEARTBEAT":
                self.arrived.append(sent)
            elif sent.route > 3:
                self.script.answer_beat(sent)
        for outcome in self.script.completed():
            assert outcome.corr in self.asked
            assert outcome.corr not in self.outcomes
            self.outcomes[outcome.corr] = outcome
            self._check(outcome)

    def _check(self, outcome: Any) -> None:
        if outcome.error is not None:
            return
        if self.asked[outcome.corr] == "pull":
            assert isinstance(outcome.reply, Delivered)
            assert [job.id for job in outcome.reply.jobs] == [outcome.corr * 4]
        else:
            assert outcome.reply.endswith(bytes([0xCE]) + outcome.corr.to_bytes(4, "big"))

    def _ask(self, kind: str, request: Any) -> None:
        self.asked[self.script.request(request, timeout=1500)] = kind

    def _push(self, queue: str) -> None:
        data: Any = queue
        self._ask("push", jobs.Push(queue=queue, data=data))

    def _pull(self, queue: str) -> None:
        self._ask("pull", leases.PullBatch(queue=queue, count=1))

    def _get(self, queue: str) -> None:
        self._ask("get", jobs.GetState(id=len(queue)))

    def _pick(self, sents: list[Sent], index: int) -> Sent | None:
        return sents[index % len(sents)] if sents else None

    def _bring(self, index: int) -> None:
        """An answer arrives that may have arrived before."""
        sent = self._pick(self.answered, index)
        if sent is not None:
            self._reply(sent)

    _copy = _bring

    def _answer(self, index: int) -> None:
        sent = self._pick(self.arrived, index)
        if sent is not None:
            self.arrived.remove(sent)
            self.answered.append(sent)
            self._reply(sent)

    def _reply(self, sent: Sent) -> None:
        if sent.word == "PULLB":
            fields = {"jobs": delivered([(sent.corr * 4, sent.corr)])}
            self.script.answer(sent, DELIVERY, **fields)
        else:
            # a fixed width, so that the end of the reply is the corr
            body = b"\x82\xa2ok\xc3\xa2id\xce" + sent.corr.to_bytes(4, "big")
            self._raw(sent.corr, body)

    def _raw(self, corr: int, body: bytes) -> None:
        self.script.connection.receive([pack_header(REPLY, 0, corr), body], self.script.now)

    def _lose(self, index: int) -> None:
        sent = self._pick(self.arrived, index)
        if sent is not None:
            self.arrived.remove(sent)

    def _busy(self, index: int) -> None:
        sent = self._pick(self.arrived, index)
        if sent is not None:
            self.arrived.remove(sent)
            self.script.refuse(sent, "busy", retryable=True)

    def _reconnect(self, _: int) -> None:
        self.script.connection.opened(self.script.now)

    def _restart(self, shard: int) -> None:
        self.epoch += 1
        self.script.notify(notice="shard", shard=shard, epoch=self.epoch)

    def _wait(self, ms: int) -> None:
        self.script.now += ms

    def _abandon(self, index: int) -> None:
        open_ = [corr for corr in self.asked if corr not in self.outcomes]
        if open_:
            corr = open_[index % len(open_)]
            self.script.connection.abandon(corr)
            self.abandoned.add(corr)
            self.outcomes[corr] = None


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=150, deadline=None)
def test_answers_match_their_requests_whatever_the_network_does(
    steps: list[tuple[str, Any]],
) -> None:
    """Reordered, lost, repeated and late answers: each request ends once, with its own answer or
    an error; a delivery is taken by its pull, or given back; time ends what is left."""
    network = Network()
    for word, value in steps:
        network.step(word, value)
    network.step("wait", 2000)
    assert network.outcomes.keys() == network.asked.keys()
    assert network.script.connection.outstanding == 0
    taken = {
        corr * 4
        for corr, outcome in network.outcomes.items()
        if network.asked[corr] == "pull" and outcome is not None and outcome.error is None
    }
    brought = {sent.corr * 4 for sent in network.answered if sent.word == "PULLB"}
    assert brought == taken | network.released
    assert not taken & network.released
