"""ZMTP 3, the protocol of ZeroMQ's sockets, spoken by the side that listens.

Every program that others connect to listens with this package instead of a ROUTER of libzmq: a
ROUTER takes a peer's name from the peer itself, counts messages and not bytes, and cannot close a
connection. docs/ARCHITECTURE.md has the reasons. Clients, and whatever connects to somebody else,
use libzmq.
"""
