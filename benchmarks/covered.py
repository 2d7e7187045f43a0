"""Which published poisons the certificate of a bounded-influence head covers.

    python -m benchmarks.covered --root DIR --setups FILE --denoiser DIR --extractor FILE [--noise-only]
                                 [--targets N] [--draws N] [--only NAME ..] [--note WORDS] [--quick]

CIFAR-10, the public benchmark's transfer targets and bases: 25 poisons in 2,500 training images at epsilon 8/255, a
ResNet-20 trained elsewhere as frozen extractor. For each target: whether the clean set's ensemble certifies it against
these poisons, and whether they succeed against an undefended logistic head and against the bounded-influence head. The
head's public part is made from 2,000 training images outside every raw set. All attacks meet the same noise, so the
clean ensembles are made once. Interrupted drills go on (data/redteam/); tables go to benchmarks/results/covered/.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common.drills import quick
from benchmarks.common.record import flags, record, results
from cleanlabel.redteam.drill.params import DrillParams, checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.report import NAMES, drill_lines
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.sanitize import errors

ATTACKS = ("bullseye", "frogs")
SIGMAS = [0.0, 0.1, 0.25]
LITTLE = {"draws": 2, "trusted": 200}
"""What `--quick` changes besides what it changes in every drill."""


def settings(args: argparse.Namespace, attack: str, entropy: str) -> DrillParams:
    """The drill of one attack, in the noise of this entropy."""
    content: dict[str, Any] = {
        "attack": attack,
        "data": "cifar10",
        "root": str(args.root),
        "setups": str(args.setups),
        "images": 2500,
        "poisons": 25,
        "epsilon_255": 8.0,
        "denoiser": str(args.denoiser),
        "extractor": str(args.extractor),
        "targets": args.targets,
        "sigma": SIGMAS,
        "trusted": 2000,
        "draws": args.draws,
        "denoise": not args.noise_only,
        "entropy": entropy,
    }
    small = quick(content) | LITTLE if args.quick else content
    return checked(small | {"recipe": {"head": "bounded-influence"}})


def main() -> None:
    parser = flags("covered", __doc__, "one target, few images, poisons, draws and steps")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--setups", type=Path, required=True, help="the public benchmark's transfer setups, as JSON")
    parser.add_argument("--denoiser", type=Path, required=True, help="for CIFAR-10")
    parser.add_argument("--extractor", type=Path, required=True, help="a ResNet-20 for CIFAR-10")
    parser.add_argument("--targets", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=10, help="of the clean ensembles (default: %(default)s)")
    parser.add_argument("--noise-only", action="store_true", help="leave the noise in: many times faster on a CPU")
    parser.add_argument("--only", nargs="+", default=ATTACKS, choices=ATTACKS, help="run only these attacks")
    parser.add_argument("--note", help="a note on the machine, such as 'shared with other work'")
    args = parser.parse_args()
    # The operating system's, which no attack is given; the later drills take the first one's.
    entropy, figures = "os", {}
    for attack in args.only:
        drill = prepared(settings(args, attack, entropy))
        entropy = f"fixed:{drill.entropy.hex}"
        found = run_drill(drill, results(args) / "covered", say=lambda words: print(words, flush=True))
        print("\n".join(["", f"## {NAMES[attack]}", "", *drill_lines(found.summary)]), flush=True)
        figures[attack] = {key: value for key, value in found.summary.items() if key not in ("cells", "recipe")}
        name = "covered_noise-only" if args.noise_only else "covered"
        record(name, {"drills": figures, "note": args.note}, results(args))


if __name__ == "__main__":
    errors.run(main)
