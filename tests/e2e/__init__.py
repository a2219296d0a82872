"""Tests of the whole: real servers, real workers, the command line as people use it."""
