"""Starts all programs of a server, keeps them alive, and stops them in order."""
