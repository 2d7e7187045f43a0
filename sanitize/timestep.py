"""Convert the noise level sigma to the diffusion timestep that tells the network how noisy its input is."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cleanlabel.sanitize.errors import InputError


def timestep_for(sigma: float, alphas_cumprod: ArrayLike) -> int:
    """The smallest t >= 1 whose noise level sqrt((1 - abar_t) / abar_t) is at least 2 sigma.

    sigma is in [0,1] pixel units; the network works in [-1,1], hence the factor 2. The rule is that of published
    denoised smoothing (Carlini et al. 2023). The added noise still has exactly sigma: t only informs the network.
    InputError if sigma is not positive or beyond the schedule.
    """
    require_reachable(sigma, largest_sigma(alphas_cumprod))
    reached = np.flatnonzero(_levels(alphas_cumprod)[1:] >= 2 * sigma)
    return int(reached[0]) + 1


def largest_sigma(alphas_cumprod: ArrayLike) -> float:
    """The noisiest level of a schedule that leaves anything of the image, in [0,1] pixel units."""
    levels = _levels(alphas_cumprod)[1:]
    return float(levels[np.isfinite(levels)].max()) / 2  # a schedule may end in pure noise, abar = 0


def require_reachable(sigma: float, largest: float) -> None:
    """InputError unless 0 < sigma <= largest, both in [0,1] pixel units."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma={sigma} is not a valid noise level; choose a positive number, in [0,1] pixel units")
    if sigma > largest:
        raise InputError(
            f"sigma={sigma:g} exceeds the schedule's largest noise level {largest:.3g} "
            "(in [0,1] units); choose a smaller sigma"
        )


def _levels(alphas_cumprod: ArrayLike) -> NDArray[np.float64]:
    alphas_bar = np.asarray(alphas_cumprod, dtype=np.float64)
    with np.errstate(divide="ignore"):
        levels: NDArray[np.float64] = np.sqrt((1 - alphas_bar) / alphas_bar)
    return levels
