"""The preprocessing step alone, for anybody's own pipeline.

python -m sanitize --input IN --output OUT --denoiser DIR_OR_HUB_ID --sigma S
"""

import argparse
from pathlib import Path

import torch

from sanitize import errors
from sanitize.copies import check_output, manifest_path, write_copy
from sanitize.denoiser import load_denoiser
from sanitize.denoiser_files import find_denoiser
from sanitize.errors import InputError
from sanitize.imageset import load
from sanitize.noise import draw_entropy


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(
        prog="python -m sanitize",
        description="Add Gaussian noise to every image of a set and remove it with one step of a diffusion denoiser.",
    )
    flags.add_argument("--input", type=Path, required=True, help="a .npz (images, labels) or a folder root/class/image")
    flags.add_argument("--output", type=Path, required=True, help="where the copy goes: the same form as the input")
    flags.add_argument("--denoiser", help="a diffusers directory (unet/, scheduler/) or a hub id")
    flags.add_argument("--revision", help="the commit of a hub id; pin it")
    flags.add_argument("--sigma", type=float, required=True, help="noise level, in [0,1] pixel units: .1 to 1")
    flags.add_argument("--entropy", default="os", help="os (default), or fixed:HEX to make a copy again")
    flags.add_argument("--draw", type=int, default=0, help="which independent noise sample (default 0)")
    flags.add_argument("--noise-only", action="store_true", help="leave the noise in (the baseline)")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    return flags


def main() -> None:
    args = parser().parse_args()
    if args.noise_only == (args.denoiser is not None):
        raise InputError("give either --denoiser or --noise-only")
    if args.draw < 0:
        raise InputError(f"--draw {args.draw} is negative; number the draws from 0")
    draw_entropy(args.entropy)  # refuse a bad value before the set is read
    check_output(args.output, args.input)
    denoiser = load_denoiser(find_denoiser(args.denoiser, args.revision), args.device) if args.denoiser else None
    raw = load(args.input)
    print(f"{args.input}: {len(raw)} images {raw.image_shape}, digest {raw.digest[:12]}")
    entropy = draw_entropy(args.entropy)  # after the digest is fixed, so that no one could prepare for it
    made = write_copy(raw, args.output, args.sigma, denoiser, entropy, args.draw, progress=True)
    print(f"{args.output}: sigma {args.sigma:g}, timestep {made['timestep']}, PSNR {made['psnr_db']} dB to the input")
    print(f"{manifest_path(args.output)}: how to make it again")


if __name__ == "__main__":
    errors.run(main)
