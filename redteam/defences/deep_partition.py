"""Deep Partition Aggregation (Levine & Feizi 2021): the plurality of networks that share no training image."""

import time
from dataclasses import dataclass

import numpy as np

from cleanlabel.models.votes import count_votes
from cleanlabel.redteam.defences.elections import aggregated, votes_of
from cleanlabel.redteam.defences.interface import Context, Defended, Images, Ints
from cleanlabel.redteam.defences.partitions import members_of, require_partitions
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class DeepPartition:
    """The answer cannot change while at most floor((n1 - n2 - [tie]) / 2) images are inserted or removed.

    partitions: published 50, 250 and 1,000 for CIFAR-10's 50,000 images. Each part is trained by the victim's own
    recipe (published: Network in Network). On a frozen extractor each part fits a head, and the certificate holds if
    the extractor was trained elsewhere; the paper leaves that case out, since it trains every member from scratch.
    """

    partitions: int = 50

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError where a part would have fewer than two images."""
        require_partitions(self.partitions, raw, victim)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        logits = members_of(raw, victim, context, self.partitions)

        def votes(images: Images) -> Ints:
            return votes_of(logits(images))

        def elected(images: Images) -> tuple[Ints, Ints]:
            cast = votes(images)
            return aggregated(count_votes(dict(enumerate(cast)), self.partitions, len(images), victim.classes))

        def certified(images: Images) -> tuple[Ints, np.ndarray]:
            label, tolerated = elected(images)
            return label, tolerated.astype(np.float64)

        seconds = time.perf_counter() - started
        return Defended(lambda images: elected(images)[0], seconds, votes=votes, insertions=certified)
