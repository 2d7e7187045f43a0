"""Make a picture of the sanitizer's effect on trusted images: given, noised, sanitized, and the difference.

Settings must not be chosen by looking at the raw set: that would void its certificates.

cleanlabel preview --input IN --denoiser DIR_OR_HUB_ID --sigma S --output sheet.png
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import find_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.fitting import FITS, Fit, fitting_for
from cleanlabel.sanitize.folders import reading_flags, reading_of
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.noise import check_sigma, draw_entropy
from cleanlabel.sanitize.quality import harm_of, psnr
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize_batch
from cleanlabel.sanitize.sources import Source, open_source

POOL = 256
"""The number of images from which the worst are selected."""
AMPLIFIED = 3
"""The factor by which differences are amplified, around grey."""
CELL, GAP, NAMES = 112, 6, 150
"""Pixels of the sheet: the side of an image with its gap, the gap, and the width of the names."""


def examples(raw: ImageSet, count: int) -> ImageSet:
    """The first image of each class in turn, then the second of each, until there are `count`."""
    rank = np.empty(len(raw), dtype=np.int64)
    for label in np.unique(raw.labels):
        rows = np.flatnonzero(raw.labels == label)
        rank[rows] = np.arange(len(rows))
    return raw.take(np.lexsort((raw.labels, rank))[:count])


def contact_sheet(
    raw: ImageSet, sigma: float, denoiser: Denoiser | None, entropy: bytes, draw: int, path: Path, columns: int = 10
) -> None:
    """Write a PNG with one column per image: raw, noised (clipped for display) and, with a denoiser, sanitized."""
    shown = examples(raw, columns)
    noised = sanitize_batch(shown.images, shown.ids, sigma, None, entropy, draw)
    rows: list[tuple[str, NDArray[Any]]] = [("raw", shown.images), (f"noised, sigma {sigma:g}", as_pixels(noised))]
    if denoiser is not None:
        rows.append(("sanitized", sanitize_batch(shown.images, shown.ids, sigma, denoiser, entropy, draw)))
    draw_sheet([("", rows)], path)


def preview(
    source: Source, sigma: float, denoiser: Denoiser, fit: Fit, path: Path, columns: int, seed: int
) -> str | None:
    """Write a PNG of a random sample and of the worst of `POOL` images: given, noised, sanitized, amplified difference.

    The noise is made for this picture alone. Returns a sentence if the denoiser does harm. InputError unless the images
    have one size.
    """
    rows = np.random.default_rng(seed).permutation(len(source))[:POOL]
    pool = read_all(
        replace(
            source,
            ids=tuple(source.ids[i] for i in rows),
            labels=source.labels[rows],
            sizes=source.sizes[rows],
            read_one=lambda i: source.read_one(int(rows[i])),
            names=(),
        ),
        "the sample",
    )
    entropy = draw_entropy("os").value
    fitting = fitting_for(source.sizes, source.channels, denoiser.facts, fit)
    noised = as_pixels(sanitize_batch(pool.images, pool.ids, sigma, None, entropy, 0))
    clean = sanitize_batch(pool.images, pool.ids, sigma, denoiser, entropy, 0, fitting=fitting)
    error = np.mean((pool.images.astype(np.float64) - clean) ** 2, axis=(1, 2, 3))
    blocks = []
    for name, chosen in (("at random", np.arange(len(pool))[:columns]), ("worst", np.argsort(-error)[:columns])):
        difference = AMPLIFIED * (clean[chosen].astype(np.int64) - pool.images[chosen]) + 128
        lines: list[tuple[str, NDArray[Any]]] = [
            (f"given, {name}", pool.images[chosen]),
            (f"noised, sigma {sigma:g}", noised[chosen]),
            ("sanitized", clean[chosen]),
            (f"difference x{AMPLIFIED}", difference.clip(0, 255).astype(np.uint8)),
        ]
        blocks.append((name, lines))
    draw_sheet(blocks, path)
    return harm_of(pool.images, noised, clean, sigma)


def draw_sheet(blocks: list[tuple[str, list[tuple[str, NDArray[Any]]]]], path: Path) -> None:
    """Write a PNG of lines of images, one below another, each with its PSNR to the first line of its block.

    blocks: (name, lines); a line is (its name, uint8 (columns, h, w, c)). A line named `difference..` has no PSNR.
    """
    lines = [(name, images, block[0][1]) for _, block in blocks for name, images in block]
    columns = len(lines[0][1])
    sheet = Image.new("RGB", (NAMES + CELL * columns + GAP, CELL * len(lines) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, (name, images, clean) in enumerate(lines):
        quiet = images is clean or name.startswith("difference")
        words = name if quiet else f"{name}\n{_psnr(clean, images)}"
        middle = y * CELL + CELL // 2
        pen.multiline_text((NAMES - GAP, middle), words, fill="black", font=font, anchor="rm", align="right")
        for x, image in enumerate(images):
            h, w = image.shape[:2]
            scale = (CELL - GAP) / max(h, w)
            size = max(1, round(w * scale)), max(1, round(h * scale))
            shown = Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image)
            shown = shown.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left, top = ((CELL - side) // 2 for side in size)
            sheet.paste(shown.convert("RGB"), (NAMES + x * CELL + left, y * CELL + top))
    with replacing(path) as scratch:
        sheet.save(scratch, format="png")


def _psnr(clean: NDArray[np.uint8], other: NDArray[Any]) -> str:
    found = psnr(clean, other)
    return "identical" if found == np.inf else f"{found:.1f} dB"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command's flags; prog: how it was called."""
    flags = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    flags.add_argument("--input", type=Path, required=True, help="trusted images: a folder root/class/image or a .npz")
    reading_flags(flags)
    flags.add_argument("--denoiser", required=True, help="a diffusers directory or a hub id")
    flags.add_argument("--sigma", type=float, required=True, help="noise level, in [0,1] pixel units")
    flags.add_argument("--output", type=Path, required=True, help="the PNG file to write")
    flags.add_argument(
        "--fit", choices=FITS, default="exact", help="what to do with images of another size than the denoiser's"
    )
    flags.add_argument("--columns", type=int, default=10, help="images per line (default 10)")
    flags.add_argument("--seed", type=int, default=0, help="seed of the random sample")
    return flags


def main(words: Sequence[str] | None = None, prog: str = "python -m cleanlabel.sanitize.preview") -> None:
    """The command. words: its arguments, by default the process's own; prog: how it was called."""
    args = parser(prog).parse_args(words)
    check_sigma(args.sigma, "--sigma")
    if args.columns < 1:
        raise InputError(f"--columns {args.columns} shows nothing; give 1 or more")
    source = open_source(args.input, reading_of(args))
    for note in source.notes:
        print(f"{args.input}: {note}", file=sys.stderr)
    denoiser = load_denoiser(find_denoiser(args.denoiser))
    harm = preview(source, args.sigma, denoiser, args.fit, args.output, args.columns, args.seed)
    if harm:
        errors.warn(harm)
    print(f"{args.output}: given, noised, sanitized and the difference, random and worst of {min(POOL, len(source))}")
    print("note: choose sigma by trusted images; a choice made by looking at the raw set voids its certificates")


if __name__ == "__main__":
    errors.run(lambda: main(prog=f"python -m {__package__}.preview"))
