"""Attack a victim, undefended and sanitized.

python -m redteam --attack bullseye --targets 10 --sigma 0 0.1 0.25 0.5 1.0
"""

import argparse
from pathlib import Path
from typing import Any

from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.drill.params import DrillParams, checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.report import drill_lines
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.redteam.threat.triggers import Pattern, Place
from cleanlabel.redteam.threat.victims import SCENARIOS
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.errors import InputError

OUTPUT = Path("reports/redteam")


def parser(prog: str = "python -m redteam", *, needs_attack: bool = True) -> argparse.ArgumentParser:
    """The command's flags; each but --output and --device is a param of redteam/params.yaml."""
    flags = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--attack", required=needs_attack, choices=sorted(ATTACKS), help="the attack's name")
    flags.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the attack")
    flags.add_argument("--scenario", choices=SCENARIOS, help="default: the attack's own")
    flags.add_argument("--targets", type=int, default=10, help="number of targets (default %(default)s)")
    flags.add_argument("--sigma", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 1.0], help="0: undefended")
    flags.add_argument("--poisons", type=int, help="images that may change (default: 1 %% of the raw set)")
    flags.add_argument("--epsilon", type=float, default=16.0, dest="epsilon_255", help="l_inf bound, in 255ths (16)")
    flags.add_argument("--epsilon-l2", type=float, help="l2 bound of each change, in [0,1] units, instead")
    flags.add_argument("--adaptive", action="store_true", help="craft through the sanitizer, for each sigma by itself")
    flags.add_argument(
        "--chances", type=int, default=2, help="independent noises per image and step that it averages over (2)"
    )
    flags.add_argument("--data", default="pipeline", help="pipeline (data/*.npz), or a published set")
    flags.add_argument("--root", default="data/incoming", help="where torchvision put a published set")
    flags.add_argument("--setups", help="the public benchmark's targets and bases, as JSON")
    flags.add_argument("--images", type=int, default=0, help="raw images of a published set")
    flags.add_argument("--held-out", type=int, default=0, help="training images that the denoiser has seen")
    flags.add_argument("--trusted", type=int, default=3000, help="with --setups, for a bounded-influence head (3000)")
    flags.add_argument("--denoiser", default="data/denoiser", help="a diffusers directory or hub id")
    flags.add_argument("--noise-only", action="store_false", dest="denoise", help="leave the noise in")
    flags.add_argument("--extractor", help="weights for transfer and fine-tune (default: trained on data/trusted.npz)")
    flags.add_argument(
        "--known", nargs="+", default=[], help="black-box: weights or architectures that the attacker crafts on"
    )
    flags.add_argument(
        "--networks",
        type=int,
        default=1,
        help="from scratch: networks that the attacker trains of each architecture (1)",
    )
    flags.add_argument(
        "--recipe", action="append", default=[], metavar="KEY=VALUE", help="a setting of the victim's training recipe"
    )
    flags.add_argument(
        "--trigger-size", type=int, help="a backdoor's trigger: its size in pixels (default: its authors')"
    )
    flags.add_argument("--trigger-place", choices=Place.__args__, help="where it lies")  # type: ignore[attr-defined]
    flags.add_argument("--trigger-pattern", choices=Pattern.__args__, help="its pixels")  # type: ignore[attr-defined]
    flags.add_argument("--trigger-offset", type=int, help="pixels between it and the border")
    flags.add_argument("--trigger-amplitude", type=float, help="how strongly it covers the image, up to 1")
    flags.add_argument(
        "--ensemble",
        type=int,
        default=0,
        help="models of an ensemble to certify as well (0: only the largest possible radius)",
    )
    flags.add_argument(
        "--draws", type=int, default=20, help="draws per sigma of a bounded-influence head's clean ensembles (20)"
    )
    flags.add_argument("--alpha", type=float, default=0.001, help="of radii and certificates (default %(default)s)")
    flags.add_argument("--entropy", default="os", help="entropy of the victim's noise: os, or fixed:HEX")
    flags.add_argument("--seed", type=int, default=0, help="of targets, crafting and training (default 0)")
    flags.add_argument("--output", type=Path, default=OUTPUT, help="where tables and pictures go (default %(default)s)")
    flags.add_argument(
        "--device", default=default_device().type, help="the device that runs networks (default: %(default)s)"
    )
    return flags


def params_from(args: argparse.Namespace) -> DrillParams:
    """The drill the flags ask for. InputError names a bad one."""
    content: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in ("set", "recipe", "output", "device")}
    return checked(content | {"settings": pairs(args.set), "recipe": typed(pairs(args.recipe))})


def pairs(given: list[str]) -> dict[str, str]:
    """The settings by name. InputError for one that is not KEY=VALUE."""
    for item in given:
        if "=" not in item:
            raise InputError(f"{item!r} is not KEY=VALUE; write it like steps=300")
    return dict(item.split("=", 1) for item in given)


def typed(texts: dict[str, str]) -> dict[str, Any]:
    """The texts as YAML 1.2 reads them: numbers, true and false get their types."""
    from ruamel.yaml import YAML

    reader = YAML(typ="safe", pure=True)
    return {key: reader.load(text) for key, text in texts.items()}


def main() -> None:
    args = parser().parse_args()
    drill = prepared(params_from(args), args.device)
    found = run_drill(drill, args.output, say=lambda words: print(words, flush=True))
    print("\n".join(drill_lines(found.summary)))
    print(f"\n{args.output}: table.md, table.csv, {found.name}.json and {found.name}.png; {drill.state}: the poisons")


if __name__ == "__main__":
    errors.run(main)
