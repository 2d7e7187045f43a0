"""The preprocessing step alone, for use in your own pipeline.

cleanlabel sanitize --input IN --output OUT --denoiser DIR_OR_HUB_ID --sigma S
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import check_output, make_copy, manifest_path, rows_of
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import find_denoiser
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.door import KINDS, STATES, Admitted, admit, in_words
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.fitting import FITS, Fit, fitting_for
from cleanlabel.sanitize.folders import Reading, reading_flags, reading_of
from cleanlabel.sanitize.names import is_text, shown
from cleanlabel.sanitize.noise import check_sigma, draw_entropy
from cleanlabel.sanitize.parts import parts_of_loaded
from cleanlabel.sanitize.published import PUBLISHED
from cleanlabel.sanitize.sanitizer import sanitize_batch
from cleanlabel.sanitize.sources import Source, open_published, open_source
from cleanlabel.sanitize.stream import parse_shard


def parser(prog: str) -> argparse.ArgumentParser:
    """The command's flags; prog: how it was called."""
    flags = argparse.ArgumentParser(
        prog=prog,
        description="Add Gaussian noise to every image of a set and remove it with one step of a diffusion denoiser.",
    )
    flags.add_argument(
        "--input",
        required=True,
        help=f"a folder root/class/image, a .npz (images, labels), or a published set: {', '.join(PUBLISHED)}",
    )
    reading_flags(flags)
    flags.add_argument(
        "--root", type=Path, default=Path("data/incoming"), help="folder where torchvision put a published set"
    )
    flags.add_argument("--split", default="train", help="split of a published set: train (default) or test")
    flags.add_argument(
        "--output", type=Path, required=True, help="where to write the copy, in the same form as the input"
    )
    flags.add_argument("--denoiser", help="a diffusers directory (unet/, scheduler/) or a hub id")
    flags.add_argument("--revision", help="commit of the hub id; name one, so that the weights cannot change")
    flags.add_argument(
        "--provenance",
        choices=STATES,
        help="what the denoiser was trained on: disjoint (other data than these images), fixed-before (a trusted "
        "earlier copy of them) or on-raw (these images as supplied: no certificate may be made from the copy)",
    )
    flags.add_argument("--origin", help="the denoiser's author and training data, in words, for the manifest")
    flags.add_argument("--sigma", type=float, required=True, help="noise level, in [0,1] pixel units: .1 to 1")
    flags.add_argument(
        "--fit", choices=FITS, default="exact", help="what to do with images of another size than the denoiser's"
    )
    flags.add_argument(
        "--entropy", default="os", help="source of the noise: os (default), or fixed:HEX to repeat a copy"
    )
    flags.add_argument("--draw", type=int, default=0, help="number of the independent noise sample (default 0)")
    flags.add_argument(
        "--shard", default="1/1", metavar="i/N", help="process part i of N only; the last part to finish assembles OUT"
    )
    flags.add_argument("--noise-only", action="store_true", help="leave the noise in (the baseline)")
    flags.add_argument("--dry-run", action="store_true", help="only print what would be done, its time and disk space")
    flags.add_argument(
        "--device", default=default_device().type, help="the device that runs the denoiser (default: %(default)s)"
    )
    return flags


def open_input(name: str, root: Path, split: str, reading: Reading) -> tuple[Source, Path | None]:
    """The source that `--input` names, and its path if it has one."""
    path = Path(name)
    if name in PUBLISHED and not path.exists():
        return open_published(name, root, split), None
    source = open_source(path, reading)
    for note in source.notes:
        print(f"{name}: {note}", file=sys.stderr)
    return source, path


def dry_run(source: Source, sigma: float, denoiser: Denoiser | None, fit: Fit) -> str:
    """What a run would do, in a few lines. The time comes from a short calibration on random pixels."""
    h, w = source.size or (int(source.sizes[:, 0].max()), int(source.sizes[:, 1].max()))
    size = f"{w}x{h}" if source.size else f"up to {w}x{h}"
    lines = [f"{len(source)} images, {size}, {source.channels} channel(s), {len(source.classes)} classes"]
    values = int((source.sizes.prod(axis=1) * source.channels).sum())
    if denoiser:
        fitting = fitting_for(source.sizes, source.channels, denoiser.facts, fit)
        rows = rows_of(source, denoiser)
        fast = accelerate(denoiser, sigma, rows, images=len(source))
        per_image = max(fitting.answers_per_image(int(a), int(b)) for a, b in np.unique(source.sizes, axis=0))
        count = max(1, rows // per_image)
        pixels = np.random.default_rng(0).integers(0, 256, (count, h, w, source.channels), dtype=np.uint8)
        ids = tuple(map(str, range(count)))
        seconds = []
        for _ in range(3):  # the first one warms up
            started = time.perf_counter()
            sanitize_batch(pixels, ids, sigma, denoiser, bytes(32), 0, fitting=fitting, denoise=fast, batch=rows)
            seconds.append(time.perf_counter() - started)
        rate = count / min(seconds[1:])
        lines.append(f"sigma {sigma:g}, timestep {denoiser.timestep(sigma)}, fit {fit}, network in {fast.mode}")
        lines.append(f"about {len(source) / rate:.0f} s at {rate:.0f} images/s, by a short calibration")
    lines.append(f"about {values / 1e6:.1f} MB for the copy, twice that while it is made (uncompressed)")
    return "\n".join(lines)


def _admitted(source: Source, denoiser: Denoiser, args: argparse.Namespace) -> Admitted:
    int8 = denoiser.int8 is not None and denoiser.int8.sigma == args.sigma
    parts = parts_of_loaded(denoiser, args.provenance, args.origin, ("--provenance", "--origin"), int8=int8)
    return admit(source, parts, demand=False)


def main(words: Sequence[str] | None = None, prog: str = "python -m cleanlabel.sanitize") -> None:
    """The command. words: its arguments, by default the process's own; prog: how it was called."""
    args = parser(prog).parse_args(words)
    if args.noise_only == (args.denoiser is not None):
        raise InputError("give either --denoiser or --noise-only")
    check_sigma(args.sigma, "--sigma")
    if not 0 <= args.draw < 1 << 53:
        raise InputError(f"--draw {args.draw} is not the number of a draw; number the draws from 0")
    shard = parse_shard(args.shard)
    draw_entropy(args.entropy)  # refuse a bad value before the set is read
    for flag in ("input", "output"):
        if not is_text(str(getattr(args, flag))):
            raise InputError(f"--{flag} {shown(str(getattr(args, flag)))} is a path that is not UTF-8; rename it")
    source, path = open_input(args.input, args.root, args.split, reading_of(args))
    if not len(source):
        raise InputError(f"{args.input} holds no image; there is nothing to sanitize")
    check_output(args.output, source.form, path)
    denoiser = load_denoiser(find_denoiser(args.denoiser, args.revision), args.device) if args.denoiser else None
    admitted = _admitted(source, denoiser, args) if denoiser else ()
    if args.dry_run:
        print(dry_run(source, args.sigma, denoiser, args.fit))
        return
    made = make_copy(
        source,
        args.output,
        args.sigma,
        denoiser,
        args.entropy,
        args.draw,
        fit=args.fit,
        shard=shard,
        admitted=admitted,
        progress=True,
        say=lambda words: print(f"{args.input}: {words}", flush=True),
        warn=errors.warn,
    )
    if made is None:
        print(f"{args.output}.partial: this part is done; {args.output} is assembled when the last part is done")
        return
    for part in admitted:
        print(f"{KINDS[part['name']].subject}: {in_words(part)}")
    print(f"{args.output}: sigma {args.sigma:g}, timestep {made['timestep']}, PSNR {made['psnr_db']} dB to the input")
    print(f"{manifest_path(args.output)}: what is needed to make the copy again")


if __name__ == "__main__":
    errors.run(lambda: main(prog=f"python -m {__package__}"))
