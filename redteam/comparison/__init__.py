"""Rival defences on the same poisoned sets: train them and report them side by side."""
