"""What sanitizing and noise-only smoothing share: one model per noised copy, the vote, and its radius."""

import time
from dataclasses import replace

import numpy as np

from cleanlabel.models.certificate import Floats, certify
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.votes import count_votes
from cleanlabel.redteam.defences.interface import Context, Defended, Images, Ints, answers_of
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import check_sigma, training_seed
from cleanlabel.sanitize.sanitizer import sanitize

BATCH = 64
MEMBERS_DRAW, MEMBERS_MOST = 4_000_000, 10_000
"""First draw, and draws per target, for an ensemble's members but the first, which has the context's draw."""


def require_smoothing(models: int, sigma: float, raw: ImageSet, denoiser: Denoiser | None) -> None:
    """InputError for a number of models, a sigma or a number of channels that cannot be used."""
    if not 1 <= models <= MEMBERS_MOST:
        raise InputError(f"models={models} cannot vote; give 1 (nothing certified) to {MEMBERS_MOST}")
    if not check_sigma(sigma):
        raise InputError("sigma=0 adds no noise; give a positive number, in [0,1] pixel units")
    if denoiser is not None and raw.image_shape[2] > denoiser.facts.channels:
        raise InputError(f"the denoiser takes {denoiser.facts.channels} channel(s), not {raw.image_shape[2]}")


def smoothed(
    raw: ImageSet, victim: Victim, context: Context, seed: int, models: int, denoiser: Denoiser | None
) -> Defended:
    """`models` models, each trained on a copy with its own noise; more than one vote and get a certified radius.

    A single model is defended, not certified: no radius is ever attached to it. The first model is trained with `seed`
    on the context's draw, the others as the ensemble's own draws say.
    """
    started = time.perf_counter()
    fast = accelerate(denoiser, context.sigma, BATCH, models * len(raw)) if denoiser else None
    asked = []
    for i in range(models):
        draw = MEMBERS_DRAW + context.draw * MEMBERS_MOST + i if i else context.draw
        copy = sanitize(raw, context.sigma, denoiser, context.entropy, draw, denoise=fast, batch=BATCH)
        own = training_seed(context.entropy, draw) if i else seed
        asked.append(answers_of(victim.trained(copy, raw.labels, own), victim, context))
    seconds = time.perf_counter() - started
    if models == 1:
        return Defended(asked[0], seconds)

    def votes(images: Images) -> Ints:
        return np.stack([ask(images) for ask in asked])

    def counts(images: Images) -> Ints:
        return count_votes(dict(enumerate(votes(images))), models, len(images), victim.classes)

    def radius(images: Images) -> tuple[Ints, Floats]:
        distance = noise_distance_of(len(raw), raw.image_shape, context.sigma)
        return certify(counts(images), models, context.sigma, context.alpha, distance=distance)

    plain = Defended(lambda images: counts(images).argmax(axis=1), seconds)
    return replace(plain, votes=votes, radius=radius)
