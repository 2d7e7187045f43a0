"""A certificate in words."""

import re
from typing import Any


def title(certificate: dict[str, Any]) -> str:
    """What was certified, in one line."""
    how = "denoised" if certificate["denoiser_digest"] else "noise only"
    scope = "all points at once" if certificate["simultaneous"] else "per point"
    k = certificate.get("partitions", 1)
    models = f"m = {certificate['m']}" + (f" in each of {k} blocks" if k > 1 else "")
    if "influence" in certificate:
        models += " draws, sums of bounded influences"
    if not certificate["sigma"]:
        how = "no noise"
    return f"σ = {certificate['sigma']:g}, {models}, α = {certificate['level']:.3g} {scope}, {how}"


def accuracy_name(certificate: dict[str, Any]) -> str:
    """The name of the accuracy of all answers, certified or not."""
    return "accuracy of the sums" if "influence" in certificate else "accuracy of the vote"


def escaped(text: str) -> str:
    """The text with all Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", text)
