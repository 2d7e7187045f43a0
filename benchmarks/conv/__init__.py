"""Witches' Brew against convolutional networks trained from scratch, with and without sanitizing."""
