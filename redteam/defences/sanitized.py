"""Ours: noise and one denoising step before training."""

from dataclasses import dataclass

from cleanlabel.redteam.defences.interface import Context, Defended
from cleanlabel.redteam.defences.smoothing import require_smoothing, smoothed
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.timestep import require_reachable


@dataclass(frozen=True)
class Sanitized:
    """The victim trains on a copy with noise of sigma that one step of a diffusion denoiser has removed.

    models: 1, the defended model of the paper's tables; more: an ensemble, whose vote has a certified radius.
    """

    models: int = 1

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError without a denoiser, or for a sigma that it does not reach."""
        require_reachable(context.sigma, _denoiser(context).facts.largest_sigma)
        require_smoothing(self.models, context.sigma, raw, context.denoiser)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        return smoothed(raw, victim, context, seed, self.models, _denoiser(context))


def _denoiser(context: Context) -> Denoiser:
    if context.denoiser is None:
        raise InputError("sanitizing needs a denoiser; name one with --denoiser")
    return context.denoiser
