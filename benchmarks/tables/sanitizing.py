"""What sanitizing costs (`benchmarks.sanitizer`, `.image_sets`, `.memory`, `.noise`)."""

from benchmarks.tables.records import Record, grid, paragraph, read, share, where, with_source

NETWORKS = {
    "cifar10": "CIFAR-10, `google/ddpm-cifar10-32`'s architecture",
    "small": "32×32",
    "digits": "8×8 digits",
}


def speed() -> str:
    """Images a second of each network, by each way."""
    record, lines = read("sanitizer"), []
    for name, title in NETWORKS.items():
        of = record["networks"][name]
        rates = [f"{of['images_per_second'][way]:,.{1 if of['images_per_second'][way] < 100 else 0}f}" for way in
                 ("published", "scheduler", "reference", "ours")]  # fmt: skip
        lines.append(
            [
                f"{of['parameters'] / 1e6:.{1 if of['parameters'] > 1e6 else 2}f} M ({title})",
                *rates[:3],
                f"**{rates[3]}**",
                f"**{of['ours_over_published']:.1f}**",
                f"{100 * of['share_of_bf16_rate']:.0f} %",
                f"{of['psnr_to_reference_db']:.1f} dB",
            ]
        )
    head = ["network", "published way", "diffusers' step", "our float32 twin", "ours", "ours / published"]
    table = grid([*head, "share of the bf16 matrix rate", "PSNR to the twin"], lines)
    note = (
        f"Images a second, medians of {record['rounds']} rounds, the four ways in turn, random weights; the machine "
        f"reaches {record['bf16_tflops']} Tflop/s in bfloat16 matrix products."
    )
    return with_source(table, "sanitizer", record, note=note)


def difference() -> str:
    """The largest difference of a pixel to the float32 twin's."""
    networks = read("sanitizer")["networks"].values()
    return f"{max(of['largest_uint8_difference'] for of in networks)}"


def in_products() -> str:
    """The share of the large network's time that goes into its products."""
    return f"{100 * read('sanitizer')['networks']['cifar10']['share_of_our_time_in_products']:.0f} %"


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
    "sanitizer": speed,
    "sanitizer-difference": difference,
    "sanitizer-products": in_products,
    "image-sets-cifar10": lambda: quality("cifar10", "--root DIR --denoiser DIR"),
    "image-sets-fashion": lambda: quality(
        "fashion-mnist", "--raw data/raw.npz --test data/test.npz --denoiser data/denoiser"
    ),
    "memory": memory,
    "noise": noise,
}
