"""The wire as its contract says it, checked by a client that shares no code with the server."""
