"""Run-Off Election (Rezaei et al. 2023): the same networks, and a second round between the two leading classes."""

import time
from dataclasses import dataclass

import numpy as np

from cleanlabel.redteam.defences.elections import run_off, votes_of
from cleanlabel.redteam.defences.interface import Context, Defended, Images, Ints
from cleanlabel.redteam.defences.partitions import members_of, require_partitions
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class RunOffElection:
    """In the second round every network votes for the one of the two leading classes that it scores higher.

    partitions: published 50 and 250 for CIFAR-10, one network each (its variant with 16 networks a part is left out).
    What holds for the certificate of Deep Partition Aggregation on a frozen extractor holds here.
    """

    partitions: int = 50

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError where a part would have fewer than two images, or for a single class."""
        require_partitions(self.partitions, raw, victim)
        if victim.classes < 2:
            raise InputError(f"a run-off needs two classes, and the set has {victim.classes}; choose another set")

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        logits = members_of(raw, victim, context, self.partitions)

        def certified(images: Images) -> tuple[Ints, np.ndarray]:
            label, tolerated = run_off(logits(images))
            return label, tolerated.astype(np.float64)

        return Defended(
            lambda images: run_off(logits(images))[0],
            time.perf_counter() - started,
            votes=lambda images: votes_of(logits(images)),
            insertions=certified,
        )
