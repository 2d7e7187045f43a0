"""How much of a poison's change survives one sanitizing, for the poisons of a drill or a comparison.

    python -m benchmarks.surviving --denoiser DIR --drill data/redteam/NAME [..] [--sigma .1 .25] [--draws 4]

For every crafted image x + delta and its clean base x, both sanitized under the same noise, S: `kept` is the part of
delta that S(x + delta) - S(x) still holds, its projection on delta over |delta|^2; `left` the norm of that difference
over |delta|; `moved` what sanitizing alone moves a base by, |S(x) - x| over |delta|. In noises: the joint l2 norm of a
target's poisons over sigma. 1, 1, 0 is what an undefended training set has. It describes what the
victim trains on, not what it learns.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize


def crafted(drill: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(poisons, their clean bases) of each target under a drill's directory. InputError where there are none."""
    files = sorted(drill.glob("*/poisons.npz"))
    if not files:
        raise InputError(f"--drill {drill} holds no */poisons.npz; give a directory that a drill left in data/redteam")
    found = []
    for path in files:
        with np.load(path, allow_pickle=False) as content:
            found.append((content["images"], content["base"]))
    return found


def measured(
    poisons: NDArray[np.uint8], base: NDArray[np.uint8], denoiser: Denoiser, sigma: float, entropy: bytes, draws: int
) -> tuple[float, float, float]:
    """(kept, left, moved) of one target's poisons: means over images and draws."""
    ids, labels = tuple(map(str, range(len(base)))), np.zeros(len(base), dtype=np.int64)
    delta = (poisons.astype(np.float64) - base).reshape(len(base), -1) / 255
    size = np.linalg.norm(delta, axis=1)
    rows = []
    for draw in range(draws):
        after, before = (
            sanitize(ImageSet(images, labels, ids, ("?",)), sigma, denoiser, entropy, draw)
            .astype(np.float64)
            .reshape(delta.shape)
            / 255
            for images in (poisons, base)
        )
        change, moved = after - before, before - base.reshape(delta.shape) / 255
        rows.append(
            (
                (change * delta).sum(axis=1) / size**2,
                np.linalg.norm(change, axis=1) / size,
                np.linalg.norm(moved, axis=1) / size,
            )
        )
    kept, left, moved_by = np.mean(rows, axis=(0, 2))
    return float(kept), float(left), float(moved_by)


def main() -> None:
    parser = flags("surviving", __doc__, "each directory's first target, one sigma and one draw")
    parser.add_argument("--denoiser", type=Path, required=True)
    parser.add_argument("--drill", type=Path, nargs="+", required=True, help="directories that drills left")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.1, 0.25])
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    sigmas, draws = (args.sigma[:1], 1) if args.quick else (args.sigma, args.draws)
    if args.draws < 1:
        raise InputError(f"--draws {args.draws} sanitizes nothing; give 1 or more")
    denoiser, entropy = load_denoiser(args.denoiser), draw_entropy("os").value
    print("| poisons | σ | kept | left | moved | joint ℓ2, in noises |\n|---|--:|--:|--:|--:|--:|")
    found = []
    for drill in args.drill:
        targets = crafted(drill)[: 1 if args.quick else None]
        joint = float(np.median([np.linalg.norm(p.astype(np.float64) - b) / 255 for p, b in targets]))
        for sigma in sigmas:
            kept, left, moved = np.mean([measured(*one, denoiser, sigma, entropy, draws) for one in targets], axis=0)
            name = drill.name.rpartition("-")[0]
            row = {"poisons": name, "targets": len(targets), "sigma": sigma, "joint_l2": round(joint, 2)}
            found.append(row | {"kept": round(kept, 3), "left": round(left, 3), "moved": round(moved, 3)})
            print(f"| {name} | {sigma:g} | {kept:.3f} | {left:.3f} | {moved:.3f} | {joint / sigma:.0f} |", flush=True)
    record("surviving", {"rows": found, "draws": draws, "denoiser_digest": denoiser.digest}, results(args))


if __name__ == "__main__":
    errors.run(main)
