"""What sanitizing costs (`benchmarks.image_sets`, `.denoiser`, `.memory`, `.noise`)."""

import json
from statistics import fmean

from benchmarks.tables.records import Record, grid, paragraph, read, share, where, with_source


def quality(name: str, command: str) -> str:
    """Image quality and accuracy by sigma."""
    record, lines = read(f"image_sets_{name}"), []
    for sigma in sorted(record["rows"], key=lambda key: -1.0 if key == "raw" else float(key)):
        row = record["rows"][sigma]
        psnr = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("noisy_psnr_db", "psnr_db")]
        rate = "-" if row["images_per_second"] is None else f"{row['images_per_second']:.0f}"
        lines.append([sigma, *psnr, rate, share(row["test_accuracy"])])
    head = ["σ", "noisy PSNR, dB", "sanitized PSNR, dB", "images/s, files in and out", "test accuracy"]
    return with_source(grid(head, lines), f"image_sets --set {name} {command}", record)


def memory() -> str:
    """The peak of a small and of a large set."""
    record = read("memory")
    peaks = [f"{mb:,} MB at most for {int(n):,} images" for n, mb in record["peak_mb"].items()]
    words = f"{' and '.join(peaks)}, the libraries and the network of 2.5 M parameters included"
    return paragraph(f"{words} (`python -m benchmarks.memory --denoiser DIR`, {where(record)}).")


def denoiser() -> str:
    """PSNR of the denoiser that `benchmarks.denoiser` trains, beside the one it was compared with."""
    record = read("denoiser")
    own, theirs = record["trained"], record["compared"]
    sigmas = list(record["noise_left_in"])
    lines = [
        [name, *(f"{of[sigma]:.2f}" for sigma in sigmas)]
        for name, of in (
            ("noise left in", record["noise_left_in"]),
            ("the development denoiser", theirs["psnr"]),
            ("**trained here**", own["psnr"]),
        )
    ]
    note = (
        f"PSNR in dB to the clean images, on {record['test_images']} test images; noise clipped. Seed "
        f"{record['params']['seed']}; {own['weights'] / 1e6:.1f} M weights, {own['steps']:,} steps of "
        f"{record['params']['batch']} images in {record['params']['precision']}, {own['core_seconds'] / 3600:.1f} "
        "core-hours."
    )
    head = ["denoiser", *(f"σ = {sigma}" for sigma in sigmas)]
    return with_source(grid(head, lines), "denoiser --root DIR --denoiser DIR", record, note=note)


def denoiser_cells() -> str:
    """The short trainings by which the recipe was chosen."""
    record = read("denoiser")
    sigmas = list(record["noise_left_in"])
    lines = []
    for name, cell in record["cells"].items():
        found = record["probes"][name]
        chosen = "**" if name == record["chosen"] else ""
        widths = "-".join(map(str, cell["channels"]))
        psnr = (f"{found['held_out_psnr'][sigma]:.2f}" for sigma in sigmas)
        about = [widths, cell["schedule"], cell["prediction"].replace("_", "-")]
        lines.append([f"{chosen}{name}{chosen}", *about, *psnr, f"{found['core_seconds']:.0f} s"])
    head = ["cell", "widths", "schedule", "prediction", *(f"σ = {sigma}" for sigma in sigmas), "processor time"]
    return grid(head, lines, left=4)


def denoiser_worth() -> str:
    """What each denoiser is worth to the conv network of `benchmarks.conv`: accuracy, and what is left of poisons."""
    found = read("denoiser")["worth"]
    sigmas, lines = list(found["trained"]), []
    for title, name in (("the development denoiser", "compared"), ("**trained here**", "trained")):
        rows = found[name].values()
        accuracies = (share(fmean(row["accuracy"])) for row in rows)
        lines.append([title, *accuracies, *(f"{fmean(row['kept']):.2f}" for row in rows)])
    head = [*(f"accuracy, σ = {s}" for s in sigmas), *(f"kept, σ = {s}" for s in sigmas)]
    return grid(["denoiser", *head], lines)


def denoiser_params() -> str:
    """The section of params.yaml that trains it."""
    params = {k: v for k, v in read("denoiser")["params"].items() if k != "int8" and v is not None}
    lines = [f"  {k}: {json.dumps(v).strip(chr(34))}" for k, v in params.items()]
    return "\n".join(["```yaml", "denoiser:", *lines, "```"])


def noise() -> str:
    """Nanoseconds per pixel of noise in whole pixel values, beside float32 noise."""
    record = read("noise")
    lines = [
        [
            f"{row['sigma']:g}",
            f"{row['float32_ns']:.1f}",
            f"{row['whole_pixels_ns']:.1f}",
            f"{row['ratio']:.2f} ({row['ratio_least']:.2f})",
            f"{row['tables_seconds']:.2f} s",
        ]
        for row in record["noise"]
    ]
    head = ["σ", "float32 noise, as before", "whole pixel values", "times faster, median (least)", "tables, once per σ"]
    parts = " and ".join(
        f"{100 * of['noise_share']:.1f} % (denoiser of {of['denoiser']})" for of in record["sanitizing"]
    )
    note = f"One thread, rounds side by side. The noise's share of the time of sanitizing is {parts}."
    return with_source(grid(head, lines), "noise", record, note=note)


def cell(name: str, sigma: str) -> Record:
    """A row of the image sets."""
    found: Record = read(f"image_sets_{name}")["rows"][sigma]
    return found


MADE = {
    "image-sets-cifar10": lambda: quality("cifar10", "--root DIR --denoiser DIR"),
    "image-sets-fashion": lambda: quality(
        "fashion-mnist", "--raw data/raw.npz --test data/test.npz --denoiser data/denoiser"
    ),
    "denoiser": denoiser,
    "denoiser-cells": denoiser_cells,
    "denoiser-worth": denoiser_worth,
    "denoiser-params": denoiser_params,
    "memory": memory,
    "noise": noise,
}
