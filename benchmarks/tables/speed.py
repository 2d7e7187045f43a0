"""Speed on each kind of machine (`benchmarks.sanitizer`, `.modes`, `.waits`), and on paper (`.scale`)."""

from benchmarks.tables.records import Record, grid, paragraph, read, with_source

NETWORKS = {
    "cifar10": "35.7 M (32×32, `google/ddpm-cifar10-32`'s architecture)",
    "small": "2.5 M (32×32)",
    "digits": "0.16 M (8×8 digits)",
}
SANITIZER = {"sanitizer": "AMX", "sanitizer_avx512": "AVX-512 with bfloat16", "sanitizer_avx2": "AVX2"}
"""The records of the sanitizing loop, with the instructions of their machines."""
MODES = {"modes_avx512": "AVX-512 with bfloat16", "modes_avx2": "AVX2"}
WAITS = (
    "sanitize in bfloat16, a batch",
    "features, a batch",
    "predict, a batch",
    "train fast-cifar, a step",
    "train resnet18, a step",
    "train mlp, a step",
    "draws of small-cnn, a draw",
    "draws of stacked mlps, a draw",
    "head ridge, a fit",
    "head logistic, a fit",
    "witches-brew, a step",
    "convex, a step",
    "hidden-trigger, a step",
)
"""The paths that the page shows; the record has all of them."""
HOST = ("up, pageable", "down, waits", "waits")
"""What holds up the host."""


def rate(value: float) -> str:
    """Images a second, with one decimal below 100."""
    return f"{value:,.{1 if value < 100 else 0}f}"


def sanitizing() -> str:
    """Images a second of each network on each kind of machine, by each way."""
    lines, rows = [], {name: read(name) for name in SANITIZER}
    for network, title in NETWORKS.items():
        for name, instructions in SANITIZER.items():
            of = rows[name]["networks"][network]
            rates = [rate(of["images_per_second"][way]) for way in ("published", "scheduler", "reference")]
            ours = [f"**{rate(of['images_per_second']['ours'])}**", f"**{of['ours_over_published']:.1f}**"]
            psnr = f"{of['psnr_to_reference_db']:.1f} dB"
            lines.append([title, instructions, of["mode"], *rates, *ours, psnr])
    head = ["network", "instructions", "ours runs in", "published way", "diffusers' step", "our float32 twin", "ours"]
    table = grid([*head, "ours / published", "PSNR to the twin"], lines, left=3)
    rounds = {record["rounds"] for record in rows.values()}
    note = (
        f"Images a second, medians of {' or '.join(map(str, rounds))} rounds, the four ways in turn, random weights. "
        "Ratios hold within a row; machines differ in more than their instructions. The rows of AVX2 were measured "
        "beside other work, and their ratios spread widely (ranges in the records)."
    )
    return with_source(table, "sanitizer --name NAME", *rows.values(), note=note)


def difference() -> str:
    """The largest difference of a pixel to the float32 twin's, on any machine."""
    networks = [of for name in SANITIZER for of in read(name)["networks"].values()]
    return f"{max(of['largest_uint8_difference'] for of in networks)}"


def products() -> str:
    """What share of the machine's matrix rate the large network reaches, and of its time its products take."""
    words = []
    for name, instructions in SANITIZER.items():
        record = read(name)
        of = record["networks"]["cifar10"]
        share = of["share_of_rate"] if "share_of_rate" in of else of["share_of_bf16_rate"]
        speed = record["product_tflops"] if "product_tflops" in record else record["bf16_tflops"]
        words.append(
            f"{instructions}: {100 * share:.0f} % of the {speed:.2f} Tflop/s of one large matrix product, "
            f"{100 * of['share_of_our_time_in_products']:.0f} % of its time in products"
        )
    return paragraph(f"The large network reaches, with {'; '.join(words)}. The rest goes into normalisations, "
                     "activations and moving data.")  # fmt: skip


def modes() -> str:
    """Images a second of each network in every mode, and what compiling gains."""
    lines, rows = [], {name: read(name) for name in MODES}
    for network, title in NETWORKS.items():
        for name, instructions in MODES.items():
            of = rows[name]["networks"][network]
            for dtype, (gain, least, most) in of["compiled_over_plain"].items():
                speeds = [rate(of["images_per_second"][mode]) for mode in (dtype, f"{dtype}, compiled")]
                seconds = f"{of['seconds_until_first_batch'][f'{dtype}, compiled']:.0f} s"
                lines.append([title, instructions, dtype, *speeds, f"**{gain:.2f}** ({least:.2f}–{most:.2f})", seconds])
    head = ["network", "instructions", "type", "plain", "compiled", "gain, median (range)", "compiling takes"]
    command = "modes --name NAME"
    note = (
        "Images a second of processor time, one thread, rounds side by side, beside other work (alone, compiling takes "
        "less). AVX2 is the same processor held to it, by `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`."
    )
    return with_source(grid(head, lines, left=3), command, *rows.values(), note=note)


def waits() -> str:
    """What holds up the host on some paths, before and after the paths were written for a device."""
    record = read("waits")
    lines = []
    for path in WAITS:
        before, after = record["before"][path], record["after"][path]
        lines.append([path, *map(str, (held_up(before), held_up(after), queued(after)))])
    head = ["path", "held up, before", "held up, after", "queued copies, after"]
    note = f"Before: commit {record['before_commit']}. The record, waits.json, has all {len(record['after'])} paths."
    return with_source(grid(head, lines), "waits", record, note=note)


def held_up(unit: Record) -> int:
    """How often the host waits in a unit."""
    return sum(unit.get(kind, 0) for kind in HOST)


def queued(unit: Record) -> int:
    """How many copies are queued in a unit; the host does not wait for them."""
    return sum(count for kind, count in unit.items() if kind not in HOST)


def a_draw() -> str:
    """What one draw takes on one GPU, on paper."""
    lines = []
    for work in read("scale")["ensembles"]:
        seconds, images = work["seconds"], work["images"]
        lines.append(
            [
                work["name"],
                f"{images:,} × {flop(work['flop'])} = {words(seconds['denoising'])}",
                f"{images:,} × {work['epochs']:g} ÷ {work['trained']:,} = {words(seconds['training'])}",
                words(sum(seconds.values())),
                f"{work['noise_cores']:.1f} cores",
            ]
        )
    return grid(["ensemble", "denoising", "training", "a draw, with its votes", "noise, on the CPU"], lines)


def an_ensemble() -> str:
    """How long all draws take, and how much of the time GPUs are idle, on paper."""
    record = read("scale")
    lines = []
    for work in record["ensembles"]:
        for row in work["fleets"]:
            cells = [f"{words(3600 * row[way]['hours'])}, idle {row[way]['idle']:.0%}" for way in ("batches", "dealt")]
            lines.append([f"{work['name']}, m = {work['m']:,}", f"{row['gpus']}", *cells, f"{row['dealt']['tasks']}"])
    most = record["batch_of_draws"]
    head = ["ensemble", "GPUs", f"in batches of {most}", f"dealt out, at most {most}", "tasks, dealt out"]
    return grid(head, lines)


def a_machine() -> str:
    """What eight GPUs of one machine ask of its disk, on paper."""
    lines = []
    for work in read("scale")["ensembles"]:
        size = work["copy_bytes"] / 1e9
        lines.append(
            [
                work["name"],
                f"{size:,.1f} GB",
                f"{16 * size:,.0f} GB",
                f"{8 * work['write_mb'] / 1e3:,.2f} GB/s",
                f"{8 * work['read_mb'] / 1e3:,.2f} GB/s",
            ]
        )
    return grid(["ensemble", "a copy", "scratch disk, two copies a GPU", "written", "read in training"], lines)


def words(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def flop(value: float) -> str:
    """A network's arithmetic for one image."""
    return f"{value / 1e12:.2f} Tflop" if value >= 1e12 else f"{value / 1e9:.2f} Gflop"


MADE = {
    "sanitizer": sanitizing,
    "sanitizer-difference": difference,
    "sanitizer-products": products,
    "modes": modes,
    "waits": waits,
    "scale-draw": a_draw,
    "scale-ensemble": an_ensemble,
    "scale-machine": a_machine,
}
