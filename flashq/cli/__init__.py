"""The command line: verbs for people and scripts around one client.

It may start any program and use the client; nothing of flashq imports it. Modules of verbs are
imported when their verb is asked for, so that `flashq --version` and the forking process of
`flashq serve` stay small.
"""
