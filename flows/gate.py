"""The gate: what a version must show before it may be promoted, held against its certificate and its audit."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from flows.audit import Check, audit
from flows.certificates import Certified
from flows.store import TAG, Store, clear_alias, set_alias, tag_version
from models.certificate import certified_accuracy
from models.params import GateParams

CANDIDATE, CERTIFIED = "candidate", "certified"


@dataclass(frozen=True)
class Verdict:
    """What the gate found; a version passes if every check does."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> str:
        """Why it did not pass, in a line."""
        return "; ".join(f"{check.name}: {check.found}" for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: nothing in it depends on which draws the audit happened to replay."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(certified: Certified, truth: NDArray[np.int64], audited: list[Check], params: GateParams) -> Verdict:
    """Hold a certificate and the checks of its audit against the thresholds."""
    certificate = certified.certificate
    accuracy = certificate["vote_accuracy"]
    checks = [
        Check(
            "accuracy of the vote", accuracy >= params.accuracy, f"{accuracy:.4f}, at least {params.accuracy:g} asked"
        )
    ]
    for threshold in params.certified_accuracy:
        share = float(certified_accuracy(certified.label, certified.radius, truth, [threshold.radius])[0])
        found = f"{share:.4f}, at least {threshold.at_least:g} asked"
        checks.append(Check(f"certified accuracy at R = {threshold.radius:g}", share >= threshold.at_least, found))
    source = certificate["entropy_source"]
    wanted = "from the operating system asked" if params.entropy == "os" else "any will do"
    checks.append(Check("entropy", params.entropy in ("any", source), f"{source}, {wanted}"))
    failed = [check.name for check in audited if not check.passed]
    replayed = f"{params.replay} draw{'s' if params.replay != 1 else ''} replayed"
    words = f"failed: {', '.join(failed)}; see flows.audit" if failed else f"every check passed, {replayed}"
    checks.append(Check("audit", not failed, words))
    return Verdict(checks)


def run_gate(
    store: Store, version: ModelVersion, certified: Certified, truth: NDArray[np.int64], params: GateParams
) -> Verdict:
    """Audit a certified version and judge it; the registry gets verdict, reasons and alias.

    A version that passes becomes the `candidate`, or `certified` at once where no review is asked for. One that does
    not pass loses both.
    """
    verdict = judge(certified, truth, list(audit(store, int(version.version), params.replay)), params)
    tag_version(store, version, {"gate": "passed" if verdict.passed else "failed", "gate_reasons": verdict.reasons})
    approved = version.tags.get(f"{TAG}review") == "approved"
    if not verdict.passed or version.tags.get(f"{TAG}review") == "rejected":
        clear_alias(store, version, CANDIDATE, CERTIFIED)
    elif params.approval == "automatic" or approved:
        set_alias(store, version, CERTIFIED)
        clear_alias(store, version, CANDIDATE)
    else:
        set_alias(store, version, CANDIDATE)
    return verdict
