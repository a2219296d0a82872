"""One test file per module: no sockets, no sleeps."""
