"""`flashq serve` as the torture runs it, and, when a test asks for it, with a safety taken out.

`python -m tests.torture.serve`, with the flags of `flashq serve`; with `shard` in front of those of
`flashq-shard` it is a single shard. FLASHQ_TEST_SABOTAGE names what is taken out, with commas
between; nothing in the product reads it. Each of them breaks a promise, and a run that does not
notice is no test:

* `gate`: replies leave before what they say is safe.
* `fencing`: locks let everybody in, and nobody looks at epochs.
* `mailboxes`: a shard that comes back numbers its mail from the beginning.
* `slow`: a commit takes its time. It breaks nothing; it only makes room for the others to show.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any, Final

from flashq.coordinator import shards
from flashq.lockfile import Lockfile
from flashq.protocol.internal import Safe
from flashq.shard import gate, node, process
from flashq.storage import postgres, tables
from flashq.supervisor.process import main

SABOTAGE: Final = "FLASHQ_TEST_SABOTAGE"
SLOW_MS: Final = 30


def _replace(owner: type, name: str, value: Any) -> None:
    """Put something else into a class; what is not there cannot be taken out."""
    assert name in vars(owner), f"{owner.__name__} has no {name} any more"
    setattr(owner, name, value)


def _without_gate() -> None:
    def pass_always(_gate: gate.Gate[Any], _seq: int, _thing: Any) -> bool:
        return True

    def admit_always(_gate: gate.ReplyGate, reply: Any, _seq: int, **_: Any) -> Any:
        return reply

    _replace(gate.Gate, "pass_or_wait", pass_always)
    _replace(gate.ReplyGate, "admit", admit_always)


def _without_fencing() -> None:
    def take(_fd: int) -> bool:
        return True

    def no_lock(_storage: postgres.PostgresStorage, _connection: Any) -> None:
        return None

    def holder(
        links: shards.ShardLinks, identity: bytes, shard: int, _epoch: int
    ) -> shards.ShardLink:
        link = links._links[shard]
        link.identity = identity
        return link

    def confirm(this: node.Node, message: Safe) -> None:
        if not this._resyncing:
            this._confirm(message.seq)

    _replace(Lockfile, "_try", staticmethod(take))
    _replace(postgres.PostgresStorage, "_take_lock", no_lock)
    _replace(shards.ShardLinks, "_holder", holder)
    _replace(node.Node, "_on_safe", confirm)
    node._FROM_COORDINATOR[Safe] = confirm


def _with_numbers_reused() -> None:
    recovered = node.Node._recovered

    def forgetful(this: node.Node) -> None:
        for box in this._state.mailboxes.values():
            box.next_number = len(box.pending) + 1
            for place, (_, seq, body) in enumerate(list(box.pending)):
                box.pending[place] = (place + 1, seq, body)
        recovered(this)

    _replace(node.Node, "_recovered", forgetful)


def _with_slow_commits() -> None:
    write = tables.TableStorage.write

    def slowly(storage: tables.TableStorage, group: Any) -> None:
        select.select((), (), (), SLOW_MS / 1000)  # the fault itself: storage takes its time
        write(storage, group)

    _replace(tables.TableStorage, "write", slowly)


ACTS: Final = {
    "gate": _without_gate,
    "fencing": _without_fencing,
    "mailboxes": _with_numbers_reused,
    "slow": _with_slow_commits,
}

if __name__ == "__main__":
    for name in filter(None, os.environ.get(SABOTAGE, "").split(",")):
        ACTS[name]()
    if sys.argv[1:2] == ["shard"]:
        del sys.argv[1]
        process.main()
    sys.exit(main())
