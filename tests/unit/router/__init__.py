"""The router, without sockets."""
