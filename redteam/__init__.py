"""Attacks and rival defences: what the sanitizer is measured against."""
