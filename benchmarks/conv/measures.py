"""What poisons look like, and what a sanitizing leaves of them."""

import numpy as np
from numpy.typing import NDArray

HIGH = 8
"""Cycles per image from which a frequency is called high; white noise has .81 of its energy there."""


def coherence(delta: NDArray[np.float64]) -> float:
    """||mean of delta||^2 / mean of ||delta||^2 for delta (n, h, w, c): 1 for one shared direction, 1/n for none."""
    flat = delta.reshape(len(delta), -1)
    return float((flat.mean(axis=0) ** 2).sum() / (flat**2).sum(axis=1).mean())


def is_high(side: int) -> NDArray[np.bool_]:
    """Which coefficients (side, side) of a Fourier transform have HIGH cycles per image or more."""
    cycles = np.fft.fftfreq(side) * side
    return np.hypot(cycles[:, None], cycles[None]) >= HIGH


def high_share(delta: NDArray[np.float64]) -> float:
    """Share of the energy of delta (n, side, side, c) at HIGH cycles per image and more."""
    energy = np.abs(np.fft.fft2(delta, axes=(1, 2))) ** 2
    return float(energy[:, is_high(delta.shape[1])].sum() / energy.sum())


def kept(delta: NDArray[np.float64], change: NDArray[np.float64]) -> dict[str, float]:
    """How much of delta a change of the same shape holds: its projection on delta over ||delta||^2.

    all: the mean over images; low, high: over all images' coefficients below and from HIGH cycles per image on;
    shared: of the mean of delta over images, the direction that all poisons share.
    """
    n = len(delta)
    flat, moved = delta.reshape(n, -1), change.reshape(n, -1)
    each = (flat * moved).sum(axis=1) / np.maximum((flat**2).sum(axis=1), 1e-12)
    own, after = (np.fft.fft2(part, axes=(1, 2)) for part in (delta, change))
    product, energy = (own.conj() * after).real, np.abs(own) ** 2
    high = is_high(delta.shape[1])
    mean, moved_mean = flat.mean(axis=0), moved.mean(axis=0)
    return {
        "all": float(each.mean()),
        "low": float(product[:, ~high].sum() / max(energy[:, ~high].sum(), 1e-12)),
        "high": float(product[:, high].sum() / max(energy[:, high].sum(), 1e-12)),
        "shared": float(mean @ moved_mean / max(mean @ mean, 1e-12)),
    }
