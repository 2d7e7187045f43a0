"""Crafting speed of the attacks, in images x iterations a second, against the published loops as they are published.

    python -m benchmarks.crafting [--extractor FILE] [--quick]

Same settings, same bases, same budget; ours and the plain loop in turn, medians of the rounds, ratios within a round.
The network is the extractor of the file (such as a ResNet for CIFAR-10; the pixels are random, on which speed does not
depend), or an untrained small CNN. Ours use what `models.extractors.accelerated` makes of it; the plain loop is
float32.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.record import flags, record, results
from benchmarks.crafting import published
from benchmarks.crafting.published import gradient_norms_one_by_one
from cleanlabel.models.classifiers import Architecture, build, features_of
from cleanlabel.models.extractors import Extractor, accelerated, load_extractor
from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.convex_polytope import ConvexPolytope
from cleanlabel.redteam.attacks.crafting import pixels_of
from cleanlabel.redteam.attacks.gradient_matching import trainable
from cleanlabel.redteam.attacks.hidden_trigger import HiddenTrigger
from cleanlabel.redteam.attacks.label_consistent import LabelConsistent
from cleanlabel.redteam.attacks.poison_frogs import PoisonFrogs
from cleanlabel.redteam.attacks.sleeper_agent import SleeperAgent
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Attack, Backdoor, Budget, Goal, Knowledge, Target
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.imageset import ImageSet

CLASSES = 10
Way = Callable[[], int]
"""Crafts once and says how many images x iterations that was."""


def small_network() -> Extractor:
    """An untrained small CNN for 32x32 colour images."""
    torch.manual_seed(0)
    model = build(Architecture("small-cnn", (32, 32, 3), CLASSES, 16)).eval().requires_grad_(requires_grad=False)
    return Extractor(features_of(model), model[-1], (32, 32, 3), "")


def random_set(shape: tuple[int, int, int], each: int) -> ImageSet:
    """Random pixels, `each` images per class."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (each * CLASSES, *shape), dtype=np.uint8)
    return ImageSet(images, np.arange(len(images)) % CLASSES, tuple(map(str, range(len(images)))), tuple("0123456789"))


def collisions(network: Extractor, poisons: int, steps: int) -> dict[str, tuple[Way, Way]]:
    """Ours and the plain loop for the three attacks on a frozen extractor."""
    clean, fast = random_set(network.image_shape, poisons), accelerated(network)
    goal = Target(clean.images[0], 0, 1)
    budget = Budget(poisons, 16 / 255)
    rows = np.flatnonzero(clean.labels == 1)[:poisons]
    base, target = pixels_of(clean.images[rows]), pixels_of(goal.image[None])
    known = Knowledge((fast,), clean, rows)
    # no early end: every poison takes all its steps, in both
    frogs, convex, bullseye = PoisonFrogs(steps, settled=-1.0), ConvexPolytope(steps), BullseyePolytope(steps)

    def ours(attack: PoisonFrogs | ConvexPolytope | BullseyePolytope) -> Way:
        return lambda: poisons * (len(attack.craft(goal, known, budget, 0).history) - 1)

    def twin(loop: Callable[..., published.Crafted], attack: object) -> Way:
        return lambda: poisons * len(loop(attack, network, base, target, budget)[1])

    return {
        "Poison Frogs": (ours(frogs), twin(published.feature_collision, frogs)),
        "Convex Polytope": (ours(convex), twin(published.convex_polytope, convex)),
        "Bullseye Polytope": (ours(bullseye), twin(published.bullseye_polytope, bullseye)),
    }


def labels_and_gradients(network: Extractor, poisons: int, steps: int) -> dict[str, tuple[Way, Way]]:
    """Ours and the plain loop for the other attacks, which do not collide features.

    Sleeper Agent without training again, so what differs is how bases are chosen: all gradients at once, or an image
    after the other. Witches' Brew is its published loop but for how the products are added up.
    """
    clean = random_set(network.image_shape, 4 * poisons)
    rows = np.flatnonzero(clean.labels == 1)[:poisons]
    base, target = pixels_of(clean.images[rows]), pixels_of(clean.images[:1])
    goal, budget = Target(clean.images[0], 0, 1), Budget(poisons, 16 / 255)
    backdoor = Backdoor(Trigger(3), 0, 1, clean.images[clean.labels == 0])
    given, free = Knowledge((network,), clean, rows), Knowledge((network,), clean)
    fast = Knowledge((accelerated(network),), clean, rows)
    hard, hidden = LabelConsistent(steps), HiddenTrigger(steps)
    brew = WitchesBrew(steps, restarts=1, shift=0, flip=False)
    sleeper = SleeperAgent(steps, retrains=0, shift=0, flip=False)
    own = np.flatnonzero(clean.labels == 1)

    def ours(attack: Attack, aim: Goal, known: Knowledge) -> Way:
        return lambda: poisons * (len(attack.craft(aim, known, budget, 0).history) - 1)

    def one_by_one() -> int:
        norms = gradient_norms_one_by_one(trainable(network), pixels_of(clean.images[own]), 1)
        chosen = own[norms.argsort(descending=True)[:poisons].numpy()]
        return ours(sleeper, backdoor, Knowledge((network,), clean, np.sort(chosen)))()

    def paired_one_by_one() -> int:
        return poisons * len(published.hidden_trigger(hidden, network, base, pixels_of(marked), budget)[1])

    marked = backdoor.trigger.put(backdoor.images)
    return {
        "Witches' Brew": (
            ours(brew, goal, given),
            lambda: poisons * len(published.witches_brew(brew, network, base, target, 1, budget, 0 * base)[1]),
        ),
        "Label-consistent": (
            ours(hard, backdoor, fast),
            lambda: poisons * len(published.label_consistent(hard, network, base, 1, budget)[1]),
        ),
        "Hidden trigger": (ours(hidden, backdoor, fast), paired_one_by_one),
        "Sleeper Agent": (ours(sleeper, backdoor, free), one_by_one),
    }


def rate(way: Way) -> float:
    """Images x iterations a second."""
    started = time.perf_counter()
    done = way()
    return done / (time.perf_counter() - started)


def main() -> None:
    parser = flags("crafting", __doc__, "4 poisons, 2 steps, 1 round")
    parser.add_argument("--extractor", type=Path, help="a ResNet-20 .. -110 for CIFAR; default: an untrained small CNN")
    parser.add_argument("--poisons", type=int, default=25)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    poisons, steps, rounds = (4, 2, 1) if args.quick else (args.poisons, args.steps, args.rounds)
    network = load_extractor(args.extractor) if args.extractor else small_network()
    figures = {}
    print("| attack | ours | plain loop | ratio [least–most] |\n| --- | --- | --- | --- |")
    ways = collisions(network, poisons, steps) | labels_and_gradients(network, poisons, steps)
    for name, (ours, twin) in ways.items():
        rate(ours), rate(twin)  # warm up
        pairs = np.array([(rate(ours), rate(twin)) for _ in range(rounds)])
        ratios = pairs[:, 0] / pairs[:, 1]
        fast, slow = np.median(pairs, axis=0)
        figures[name] = {
            "images_x_iterations_per_s": round(float(fast), 1),
            "plain": round(float(slow), 1),
            "ratio": round(float(np.median(ratios)), 2),
            "ratios": [round(float(r), 2) for r in ratios],
        }
        print(f"| {name} | {fast:.0f} | {slow:.0f} | {np.median(ratios):.2f} [{ratios.min():.2f}–{ratios.max():.2f}] |")
    record(
        "crafting",
        {
            "network": args.extractor.name if args.extractor else "small-cnn, width 16",
            "poisons": poisons,
            "steps": steps,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "attacks": figures,
        },
        results(args),
    )


if __name__ == "__main__":
    errors.run(main)
