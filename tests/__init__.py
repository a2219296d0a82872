"""Tests of flashq, from pure units to real processes."""
