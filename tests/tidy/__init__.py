"""Checks of the source text itself."""
