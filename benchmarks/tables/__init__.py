"""The tables and figures in README.md and docs/, each written from its record."""
