"""Attacks on a frozen extractor with as many raw images as CIFAR-10's test split leaves."""
