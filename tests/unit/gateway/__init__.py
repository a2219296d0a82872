"""The gateway's pure modules, each by itself."""
