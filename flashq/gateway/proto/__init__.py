"""What is said through the gRPC door: the contract in `flashq.proto`, and its messages.

Nothing here knows of servers or of the bridge. `descriptor.py` is generated from `flashq.proto`.
"""
