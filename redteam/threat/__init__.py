"""What an attacker wants, knows and may change, and the victim that is attacked."""
