"""Certified transfer on CIFAR-10: a frozen extractor and a linear head on every sanitized copy."""
