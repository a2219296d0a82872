"""Tests of the shard engine, one file per module: no sockets, no sleeps, both clocks in hand."""
