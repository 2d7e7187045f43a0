"""Whether the certificate of the clean set's ensemble covers a target's poisons.

For each attacked test image the clean ensemble certifies a label, a radius, and a number of images that may be
rewritten under their own labels (`models.influence`). It covers poisons if for some a the a largest changes count as
rewritten images, and the others have a joint norm below the radius that is left. a = 0 uses only the radius, a = all
only the number of images. No poisons that are covered can change the answer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.extractors import features
from cleanlabel.models.influenced import Influenced, extreme_radius, influenced
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.sums import Sides, Sums
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.networks import Noise
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.redteam.threat.victims import SumsHead, answers_to_features, required_extractor
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, code_digest, key_of

Tick = Callable[[], None]


@dataclass(frozen=True)
class CoverageInputs(Inputs):
    """What a target's coverage depends on in the folder of its drill."""

    noise: Noise
    draws: int
    alpha: float
    code: str


@dataclass(frozen=True)
class Coverage:
    """One target at one sigma; or one backdoor, as shares and medians over its attacked test images.

    right: the clean ensemble of `draws` draws certifies the true class, for changes of joint norm below `radius`
    ([0,1] pixel units) or for `rewritten` images. poisons: how many images were changed, with joint l2 norm
    `joint_l2`. by_radius, by_count, covered: the true class is certified against these poisons by the radius, by the
    number of images, or by either or both together. success: the ensemble on the poisoned set, with the same noise,
    answers the intended class; undefended: so does a logistic head on that set without noise. radius_limit: the
    largest radius that any answer of such an ensemble can have.
    """

    setup: str
    sigma: float
    draws: int
    poisons: int
    joint_l2: float
    right: float
    radius: float
    rewritten: float
    by_radius: float
    by_count: float
    covered: float
    success: float
    undefended: float
    radius_limit: float


def draws_at(drill: Drill, sigma: float) -> int:
    """How many draws a clean ensemble has; without noise one is enough."""
    return drill.params.draws if sigma else 1


def coverage(drill: Drill, number: int, setup: Setup, sigma: float, tick: Tick = lambda: None) -> Coverage:
    """The certificate and the attack for this target at this sigma; kept. `tick` is called after every draw."""
    m, alpha = draws_at(drill, sigma), drill.params.alpha
    inputs = CoverageInputs(drill.noise(sigma), m, alpha, code_digest("cleanlabel.redteam.drill.covered"))
    path = drill.state / setup.name / f"covered-{sigma:g}-{key_of(inputs)}.json"
    if path.is_file():
        return Coverage(**json.loads(path.read_text()))
    poisons, _ = drill.poisons(number, setup, sigma)
    raw = poisons.injected(setup.clean)
    asked, truth = drill.asked(setup.goal)
    phi = features(required_extractor(drill.victim), asked, drill.victim.device)
    before: dict[int, Sums] = {}
    after: dict[int, Sums] = {}
    for draw in range(m):
        for images, sums in ((setup.clean, before), (raw, after)):
            head = cast(SumsHead, drill.summed(images, sigma, draw).head)
            sums[draw] = head(phi).numpy().astype(np.int64)
        tick()
    certificate, poisoned = (ensemble_of(drill, setup.clean, sums, sigma, m, alpha) for sums in (before, after))
    norms = changes(setup.clean, raw)
    right = certificate.label == truth
    radius, count, either = (right & part for part in within(certificate, norms))
    undefended = answers_to_features(drill.undefended(raw), phi)
    intended = setup.goal.intended
    found = Coverage(
        setup=setup.name,
        sigma=sigma,
        draws=m,
        poisons=len(norms),
        joint_l2=_joint(norms),
        right=float(right.mean()),
        radius=float(np.median(np.where(right, certificate.radius(), 0.0))),
        rewritten=float(np.median(np.where(right, certificate.counts("rewritten"), 0))),
        by_radius=float(radius.mean()),
        by_count=float(count.mean()),
        covered=float(either.mean()),
        success=float(np.mean(poisoned.vote == intended)),
        undefended=float(np.mean(undefended == intended)),
        radius_limit=radius_limit(drill, setup.clean, sigma),
    )
    write_json(path, asdict(found))
    return found


def ensemble_of(
    drill: Drill, images: ImageSet, sums: Mapping[int, Sums], sigma: float, m: int, alpha: float
) -> Influenced:
    """The certificates of m draws of the victim on these images; each holds with probability 1 - alpha by itself."""
    sizes = np.bincount(images.labels, minlength=drill.victim.classes).tolist()
    n = len(next(iter(sums.values())))
    distance = noise_distance_of(len(images), images.image_shape, sigma)
    return influenced(sums, m, n, sizes, _sides(drill), sigma, alpha, distance=distance)


def radius_limit(drill: Drill, images: ImageSet, sigma: float) -> float:
    """The largest radius that any answer of such an ensemble can have."""
    sizes = np.bincount(images.labels, minlength=drill.victim.classes).tolist()
    distance = noise_distance_of(len(images), images.image_shape, sigma)
    m = draws_at(drill, sigma)
    return extreme_radius(m, sizes, _sides(drill), sigma, drill.params.alpha, distance=distance)


def changes(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.float64]:
    """The l2 norm, in [0,1] units, of every changed image's change, the largest first: (k,).

    ValueError unless only pixels differ: the certificate does not speak of changed labels here.
    """
    if clean.ids != poisoned.ids or (clean.labels != poisoned.labels).any():
        raise ValueError("the sets have other ids or labels; only pixels may differ")
    rows = np.flatnonzero((clean.images != poisoned.images).any(axis=(1, 2, 3)))
    difference = poisoned.images[rows].astype(np.float64) - clean.images[rows]
    return np.sort(np.sqrt((difference**2).sum(axis=(1, 2, 3))) / 255)[::-1]


def within(
    certificate: Influenced, norms: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the certificate covers changes of these norms, the largest first: three arrays (n,).

    By the radius only; by the number of rewritten images only; by either, or with a of them rewritten and the rest
    moved. False where nothing is certified.
    """
    certified = certificate.label != ABSTAIN
    by_radius = certified & (_joint(norms) < certificate.radius())
    by_count = certified & (len(norms) <= certificate.counts("rewritten"))
    either = by_radius | by_count
    for a in range(1, min(len(norms), int(certificate.counts("rewritten").max(initial=0)) + 1)):
        if either[certified].all():
            break
        either |= certified & (_joint(norms[a:]) < certificate.radius(rewritten=a))
    return by_radius, by_count, either


def coverages(drill: Drill, setups: Sequence[Setup], tick: Tick = lambda: None) -> list[Coverage]:
    """The coverage of every target at every sigma, in the order of the cells."""
    return [
        coverage(drill, number, setup, sigma, tick)
        for number, setup in enumerate(setups)
        for sigma in drill.params.sigma
    ]


def _joint(norms: NDArray[np.float64]) -> float:
    return float(np.sqrt((norms**2).sum()))


def _sides(drill: Drill) -> Sides:
    return drill.victim.recipe.influence_sides
