"""The gateway's doors in front of a real server, through clients like those that exist."""
