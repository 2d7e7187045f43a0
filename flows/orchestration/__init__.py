"""Processes: the engines, Prefect's server, commands, logs, events, and what ends them."""
