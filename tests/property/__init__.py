"""The engine beside a naive model: the same requests, the same answers, whatever the order."""
