"""The coordinator's pure modules."""
