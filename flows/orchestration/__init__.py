"""Processes: engines, Prefect's server, commands, logs, events, and how processes are ended."""
