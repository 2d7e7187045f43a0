"""The comparisons of defences that the README quotes: the same poisons, every defence that applies.

    python -m benchmarks.compare --root DIR --setups FILE --denoiser DIR --extractor FILE
                                 [--only NAME ..] [--note WORDS]

bullseye: CIFAR-10, the public benchmark's targets and bases, 25 poisons in 2,500 training images, a ResNet-20 trained
elsewhere as frozen extractor. witches-brew: CIFAR-10 from scratch, 100 poisons in 2,500 training images, an MLP. Both
at epsilon 16/255. Interrupted ones go on (data/redteam/); tables go to benchmarks/results/compare/, figures
with machine facts to benchmarks/results/compare_NAME.json.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common.drills import quick
from benchmarks.common.record import flags, record, results
from cleanlabel.redteam.comparison.report import comparison_lines
from cleanlabel.redteam.comparison.run import comparison, entries_for
from cleanlabel.redteam.defences import DEFENCES
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError

SIGMAS = [0.1, 0.25]
LITTLE = ["dpa.partitions=5", "roe.partitions=5", "friends.steps=1", "friends.begin=1", "adversarial-training.steps=1"]
"""What `--quick` changes of the defences."""


def settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The drills whose targets and poisons are used, by name.

    witches-brew: how many poisons and which network was chosen by undefended success on five other targets (seed 7),
    before any defence was tried. With 256 units and 20 epochs 25 poisons took none of the five, 50 and 125 took all;
    with 128 units and 12 epochs, which train faster, 50 took two and 75 three.
    """
    common = {
        "data": "cifar10",
        "root": str(args.root),
        "images": 2500,
        "denoiser": str(args.denoiser),
        "sigma": SIGMAS,
        "targets": 10,
    }
    mlp = {"architecture": "mlp", "width": 128, "epochs": 12, "learning_rate": 1e-3, "batch": 64}
    found = {
        "witches-brew": common
        | {
            "attack": "witches-brew",
            "held_out": 20_000,
            "poisons": 100,
            "networks": 2,
            "seed": 2026,
            "settings": {"steps": "60", "restarts": "1", "shift": "0", "flip": "no", "hardest": "yes"},
            "recipe": mlp | {"weight_decay": 0, "label_smoothing": 0},
        }
    }
    if args.setups and args.extractor:
        transfer = {"attack": "bullseye", "setups": str(args.setups), "extractor": str(args.extractor), "poisons": 25}
        found["bullseye"] = common | transfer
    return found


def defences_for(name: str) -> list[str]:
    """Every defence that applies: on a frozen extractor no gradients of a whole network can be matched."""
    return [defence for defence in DEFENCES if name != "bullseye" or defence != "adversarial-poisoning"]


def main() -> None:
    parser = flags("compare", __doc__, "one target, few images, poisons, steps and epochs")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="for CIFAR-10")
    parser.add_argument("--setups", type=Path, help="the public benchmark's transfer setups for CIFAR-10, as JSON")
    parser.add_argument("--extractor", type=Path, help="a ResNet-20 for CIFAR-10; without it no bullseye")
    parser.add_argument("--only", nargs="+", default=[], help="run only these comparisons")
    parser.add_argument("--note", help="a note on the machine, such as 'shared with other work'")
    args = parser.parse_args()
    known = settings(args)
    for name in args.only:
        if name not in known:
            raise InputError(f"--only {name} is not one of {', '.join(known)}; bullseye needs --setups and --extractor")
    for name, content in known.items():
        if args.only and name not in args.only:
            continue
        drill = prepared(checked(quick(content) if args.quick else content))
        defences, sigmas = defences_for(name), SIGMAS[:1] if args.quick else SIGMAS
        chosen = [item for item in LITTLE if item.partition(".")[0] in defences] if args.quick else []
        found = comparison(drill, entries_for(defences, sigmas, chosen), results(args) / "compare")
        print("\n".join(comparison_lines(found)), flush=True)
        figures = {key: value for key, value in found.items() if key != "outcomes"}
        record(f"compare_{name}", figures | {"note": args.note}, results(args))


if __name__ == "__main__":
    errors.run(main)
