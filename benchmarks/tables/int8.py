"""The denoiser in 8-bit integers (`benchmarks.int8`)."""

from statistics import mean

from benchmarks.tables.records import grid, read, share, with_source
from benchmarks.tables.speed import NETWORKS
from cleanlabel.models.rounding import exact

COMMAND = "int8 --root DIR --denoiser DIR"


def speed() -> str:
    """Images a CPU second of each network in float32, in our usual way and in int8, also without AVX-512."""
    here, capped, lines = read("int8_speed"), read("int8_speed_avx2"), []
    for name, title in NETWORKS.items():
        own, old = here["networks"][name], capped["networks"][name]
        rates = [
            f"{own['images_per_second'][way]:,.{1 if name == 'cifar10' else 0}f}"
            for way in ("float32", "usual", "int8")
        ]
        lines.append(
            [
                title,
                rates[0],
                f"{rates[1]} ({own['modes']['usual']})",
                rates[2],
                f"**{own['over_float32']:.2f}**",
                f"{own['over_usual']:.2f}",
                f"**{old['over_float32']:.2f}**",
            ]
        )
    head = ["network", "float32", "as chosen without int8", "int8", "int8 / float32", "int8 / chosen"]
    versions = " and ".join(f"{name} {number}" for name, number in sorted(here["versions"].items(), reverse=True))
    note = (
        f"Images per second of processor time, one thread, medians of {here['rounds']} rounds in turn; {versions}. "
        "Last column: the same machine held to AVX2 without VNNI (`ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`; "
        "OpenVINO's kernels outside oneDNN may pass over it)."
    )
    return with_source(grid([*head, "int8 / float32, AVX2"], lines), f"{COMMAND} --only speed", here, note=note)


def ratios() -> str:
    """The least and the largest ratio to float32 of the two networks for 32x32 images."""
    records = [read(name)["networks"] for name in ("int8_speed", "int8_speed_avx2")]
    found = [networks[name]["over_float32"] for networks in records for name in ("cifar10", "small")]
    return f"{min(found):.1f} to {max(found):.1f}"


def quality() -> str:
    """PSNR and accuracy with the network in float32 and in int8, by sigma."""
    psnr, trained, lines = read("int8_speed"), read("int8_accuracy"), []
    for sigma, row in psnr["quality"].items():
        of = trained["accuracies"].get(sigma)
        accuracy = [share(mean(of[mode])) if of else "-" for mode in ("float32", "int8")]
        cells = [f"{row[key]:.2f}" for key in ("float32_to_clean", "int8_to_clean", "int8_to_float32")]
        lines.append([sigma, *cells, *accuracy])
    head = [
        "σ",
        "float32 to clean, dB",
        "int8 to clean, dB",
        "int8 to float32, dB",
        "accuracy, float32",
        "accuracy, int8",
    ]
    note = (
        f"PSNR of 256 test images; accuracy after training on {trained['images']:,} sanitized images, mean of 3 seeds."
    )
    return with_source(grid(head, lines), COMMAND, psnr, trained, note=note)


def certified() -> str:
    """Certified accuracy on the digits without and with int8, means over ensembles with the same noise."""
    of = read("int8_certified")
    lines = []
    for i, radius in enumerate(of["radii"]):
        usual, int8 = (mean(row[i] for row in of[way]) for way in ("usual", "int8"))
        lines.append([exact(radius), share(usual), share(int8), f"{of['points'][i]:+.2f}"])
    head = ["joint radius R", "without int8", "with int8", "difference, percentage points"]
    note = f"Digits, σ = {of['sigma']:g}, m = {of['m']}, means of {len(of['int8'])} pairs with the same noise."
    return with_source(grid(head, lines), f"{COMMAND} --only certified", of, note=note)


MADE = {"int8-speed": ratios, "int8-speeds": speed, "int8-quality": quality, "int8-certified": certified}
