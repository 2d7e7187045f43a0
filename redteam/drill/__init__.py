"""One attack against one victim, undefended and sanitized: prepare, run and report it."""
