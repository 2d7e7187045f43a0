"""One command per claim: each prints a table, then its figures as one JSON line, and writes them to results/."""
