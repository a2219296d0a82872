"""Real processes: kill, restart, drain."""
