"""RAB (Weber et al. 2023): Gaussian noise that is left in the training images."""

from dataclasses import dataclass

from cleanlabel.redteam.defences.interface import Context, Defended
from cleanlabel.redteam.defences.smoothing import require_smoothing, smoothed
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class NoiseOnly:
    """The victim trains on a copy with Gaussian noise of sigma, one draw an image for the whole training.

    models: 1, a single model that is not certified; more: an ensemble (published: 1,000), certified by the same bound
    as ours; published was a looser one, Hoeffding's on mean scores. RAB's noise on test inputs is left out: the bound
    on training images needs none.
    """

    models: int = 1

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for a sigma of 0, or one out of range."""
        require_smoothing(self.models, context.sigma, raw, None)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        return smoothed(raw, victim, context, seed, self.models, None)
