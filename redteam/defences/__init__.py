"""The defences that ours is compared with, each in a module of its own, on one interface."""

from typing import Any

from redteam.defences.activation_clustering import ActivationClustering
from redteam.defences.adversarial_poisoning import AdversarialPoisoning
from redteam.defences.adversarial_training import AdversarialTraining
from redteam.defences.deep_knn import DeepKnn
from redteam.defences.deep_partition import DeepPartition
from redteam.defences.dp_sgd import DpSgd
from redteam.defences.friends import Friends
from redteam.defences.gradient_noise import GradientNoise
from redteam.defences.interface import Defence
from redteam.defences.noise_only import NoiseOnly
from redteam.defences.plain import Nothing
from redteam.defences.run_off_election import RunOffElection
from redteam.defences.sanitized import Sanitized
from redteam.defences.spectral_signatures import SpectralSignatures
from redteam.settings import named

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
"""By the name the command line knows them by."""


def defence_named(name: str, settings: dict[str, str] | None = None) -> Defence:
    """The defence with its published settings, but for those given as text. InputError names what is unknown."""
    found: Defence = named("defence", DEFENCES, name, settings or {})
    return found
