"""The client: one pure connection, a blocking and an asyncio shell around it.

May import `flashq.protocol`, `flashq.errors`, `flashq.ids` and `flashq.rundir`; never the server.
"""
