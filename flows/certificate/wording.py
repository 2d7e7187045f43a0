"""A certificate in words."""

from typing import Any

from cleanlabel.models.rounding import up_text


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
    return f"σ = {certificate['sigma']:g}, {models}, α = {up_text(certificate['level'])} {scope}, {how}"


def accuracy_name(certificate: dict[str, Any]) -> str:
    """The name of the accuracy of all answers, certified or not."""
    return "accuracy of the sums" if "influence" in certificate else "accuracy of the vote"
