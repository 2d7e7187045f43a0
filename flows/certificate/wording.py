"""A certificate in words."""

import re
from typing import Any

from cleanlabel.flows.ensemble.earlier_sets import worth_telling
from cleanlabel.models.plan import attempts_before
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


def attempt_in_words(certificate: dict[str, Any]) -> str:
    """Which attempt on its raw set a certificate's ensemble is."""
    before = attempts_before(certificate)
    return f"attempt {before + 1} on this raw set" if before else "first attempt"


def attempt_notices(certificate: dict[str, Any]) -> list[str]:
    """Notes on earlier attempts that a reviewer might overlook."""
    c, found = certificate, []
    before, planned = attempts_before(c), c.get("ensembles", 1)
    if before:
        attempt = attempt_in_words(c).capitalize()
        found.append(
            f"{attempt}, so it must meet the smaller level {up_text(c['level'])}."
            if before >= planned
            else f"{attempt}; it shares alpha with the others that were declared "
            f"beforehand, {planned} in all, and must meet the level {up_text(c['level'])}."
        )
    return [*found, *filter(None, [LEDGERS.get(c.get("ledger", ""))]), *worth_telling(c.get("earlier_raw_sets"))]


LEDGERS = {
    "new": "The project's ledger of attempts began with this ensemble: attempts on this raw set that neither the "
    "store nor git recorded by then (made on another machine, or in a lost store) are unknown.",
    "copied": "This project's folder is a copy of another one, was restored, or came from another disk: attempts made "
    "in the other folder since are unknown, and have the same numbers.",
}
"""What a certificate's ledger could not know."""


def accuracy_name(certificate: dict[str, Any]) -> str:
    """The name of the accuracy of all answers, certified or not."""
    return "accuracy of the sums" if "influence" in certificate else "accuracy of the vote"


def escaped(text: str) -> str:
    """The text with all Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", text)
