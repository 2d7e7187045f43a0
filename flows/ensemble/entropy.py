"""The entropy of an ensemble: kept on this machine until its certificate reveals it."""

from pathlib import Path

from cleanlabel.flows.artifacts import CERTIFICATE_ARTIFACT
from cleanlabel.flows.ensemble.record import Ensemble
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import Store, read_json
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.noise import Entropy


def keep_entropy(entropy: Entropy) -> None:
    """Keep the value on this machine, readable by its owner, until the certificate reveals it."""
    path = _entropy_file(entropy.commitment)
    with replacing(path) as scratch:
        scratch.touch(mode=0o600)
        scratch.write_text(f"{entropy.source}:{entropy.hex}\n")


def recall_entropy(ensemble: Ensemble) -> Entropy:
    """The entropy behind an ensemble's commitment. InputError if this machine does not have it."""
    path = _entropy_file(ensemble.commitment)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: the entropy of ensemble run {ensemble.run_id} was drawn on another machine; "
            "go on there, or copy that file here"
        )
    source, _, digits = path.read_text().strip().partition(":")
    entropy = Entropy(bytes.fromhex(digits), "fixed" if source == "fixed" else "os")
    if entropy.commitment != ensemble.commitment:
        raise InputError(f"{path} does not hold the entropy it is named after; restore it")
    return entropy


def reveal_entropy(store: Store, ensemble: Ensemble) -> Entropy:
    """The entropy of an ensemble whose draws are made: this machine's, or what its certificate revealed."""
    if _entropy_file(ensemble.commitment).is_file():
        return recall_entropy(ensemble)
    try:
        revealed = read_json(store, ensemble.run_id, CERTIFICATE_ARTIFACT).get("entropy", "")
        entropy = Entropy(bytes.fromhex(revealed), "fixed" if ensemble.entropy_source == "fixed" else "os")
    except (InputError, TypeError, ValueError):
        return recall_entropy(ensemble)  # raises the error that says it is missing here
    return entropy if entropy.commitment == ensemble.commitment else recall_entropy(ensemble)


def _entropy_file(commitment: str) -> Path:
    return state() / "entropy" / commitment
