"""Certified accuracy on Fashion-MNIST from scratch."""
