"""A complete client with nothing but pyzmq and msgpack; docs/PROTOCOL.md says the rest.

It says no hello, so only a job's `stall_timeout` guards what it pulled. Start a server first:
`flashq serve`.
"""

import os
import struct

import msgpack
import zmq

dealer: zmq.Socket[bytes] = zmq.Context().socket(zmq.DEALER)
dealer.connect(os.environ.get("FLASHQ_URL", "tcp://127.0.0.1:6788"))


def call(cmd: str, **fields: object) -> dict[str, object]:
    """Send one request, wait for its reply, and return it."""
    header = struct.pack(">BBHQ", 1, 0, 0xFFFF, 1)  # version, flags, "you route it", corr
    dealer.send_multipart([header, msgpack.packb({"cmd": cmd, **fields})])
    _, body = dealer.recv_multipart()
    reply: dict[str, object] = msgpack.unpackb(body)
    if not reply["ok"]:
        raise RuntimeError(reply["error"])
    return reply


if __name__ == "__main__":
    print("pushed", call("PUSH", queue="greetings", data={"hello": "world"})["id"])
    job = call("PULL", queue="greetings", timeout=1000)["job"]
    print("pulled", job)
    if isinstance(job, dict):
        call("ACK", id=job["id"], token=job["token"], result="done")
        print("completed, with the result", call("GETRESULT", id=job["id"])["result"])
