"""Tests of ZMTP without sockets."""
