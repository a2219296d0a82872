"""The protocol: encodings, rules and records."""
