"""One command a claim: each prints a table, then its figures as one JSON line, and writes them to results/."""
