"""The defences that ours is compared with, one module each, with one interface."""

from typing import Any

from cleanlabel.redteam.defences.activation_clustering import ActivationClustering
from cleanlabel.redteam.defences.adversarial_poisoning import AdversarialPoisoning
from cleanlabel.redteam.defences.adversarial_training import AdversarialTraining
from cleanlabel.redteam.defences.deep_knn import DeepKnn
from cleanlabel.redteam.defences.deep_partition import DeepPartition
from cleanlabel.redteam.defences.dp_sgd import DpSgd
from cleanlabel.redteam.defences.friends import Friends
from cleanlabel.redteam.defences.gradient_noise import GradientNoise
from cleanlabel.redteam.defences.interface import Defence
from cleanlabel.redteam.defences.noise_only import NoiseOnly
from cleanlabel.redteam.defences.plain import Nothing
from cleanlabel.redteam.defences.run_off_election import RunOffElection
from cleanlabel.redteam.defences.sanitized import Sanitized
from cleanlabel.redteam.defences.spectral_signatures import SpectralSignatures
from cleanlabel.redteam.threat.settings import named

DEFENCES: dict[str, type[Any]] = {
    "none": Nothing,
    "sanitize": Sanitized,
    "noise-only": NoiseOnly,
    "deep-knn": DeepKnn,
    "dp-sgd": DpSgd,
    "gradient-noise": GradientNoise,
    "adversarial-training": AdversarialTraining,
    "adversarial-poisoning": AdversarialPoisoning,
    "friends": Friends,
    "dpa": DeepPartition,
    "roe": RunOffElection,
    "spectral": SpectralSignatures,
    "activation-clustering": ActivationClustering,
}
"""By their names on the command line."""


def defence_named(name: str, settings: dict[str, str] | None = None) -> Defence:
    """The defence with its published settings, except those given as text. InputError names what is unknown."""
    found: Defence = named("defence", DEFENCES, name, settings or {})
    return found
