"""No defence, to measure the others against."""

import time
from dataclasses import dataclass

from cleanlabel.redteam.defences.interface import Context, Defended, answers_of
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class Nothing:
    """The victim trains on the set as it comes."""

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """It can always run."""

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        started = time.perf_counter()
        network = victim.trained(raw.images, raw.labels, seed)
        return Defended(answers_of(network, victim, context), time.perf_counter() - started)
