"""Attacks on a frozen extractor at the scale of CIFAR-10's test split (`benchmarks.frozen`)."""

from statistics import median

import numpy as np

from benchmarks.conv.run import core_hours
from benchmarks.frozen.setting import FILTERED
from benchmarks.frozen.units import copies
from benchmarks.tables.attacks import paper_row
from benchmarks.tables.records import Record, grid, paragraph, percent, read, with_source
from cleanlabel.redteam.drill.rows import interval

COMMAND = "frozen --root DIR --setups FILE --denoiser DIR --extractor FILE --deeper FILE"
TITLES = {
    "bullseye": "Bullseye Polytope",
    "frogs": "Poison Frogs",
    "bullseye, ε = 8/255": "Bullseye, ε = 8/255",
    "bullseye, 25": "Bullseye, 25 poisons",
    "bullseye, black-box": "Bullseye, black-box",
    "bullseye, moved": "Bullseye, moved and aimed beyond",
}
OF_PAPER = ("frogs", "bullseye")
TABLES = ("tried", "controls", "victims", "filtered")


def whole(record: Record, cell: str | None = None) -> int:
    """How many of the first targets have every row of an attack (None: the first): the k of a partial result."""
    settings, name = record["settings"], cell or next(iter(record["cells"]["reported"]))
    wanted = copies(tuple(settings["sigmas"]), settings["seeds"])
    done = {(row["target"], row["sigma"], row["seed"]) for row in record["victims"] if row["cell"] == name}
    filtered = {(row["target"], row["sigma"]) for row in record["filtered"] if row["cell"] == name}
    last = max(sigma for sigma in settings["sigmas"] if sigma in FILTERED)
    k = 0
    while all((k, *copy) in done for copy in wanted) and (k, last) in filtered:
        k += 1
    return k


def measured(record: Record) -> list[str]:
    """The attacks that have been measured on at least one target."""
    return [cell for cell in record["cells"]["reported"] if whole(record, cell)]


def won(record: Record, table: str, sigma: float, head: str, cell: str | None = None) -> list[list[bool]]:
    """Of each of the first whole targets, whether each of its victims gives it the intended class."""
    found: list[list[bool]] = [[] for _ in range(whole(record, cell))]
    for row in record[table]:
        if row["sigma"] == sigma and row["target"] < len(found) and cell in (None, row.get("cell")):
            found[row["target"]].append(row["margins"][head] > 0)
    return found


def taken(record: Record, table: str, sigma: float, head: str, cell: str | None = None) -> list[bool]:
    """Whether most victims of each of the first whole targets give it the intended class."""
    return [float(np.mean(victims)) > 0.5 for victims in won(record, table, sigma, head, cell)]


def accuracy(record: Record, table: str, sigma: float, head: str, cell: str | None = None) -> float:
    """The mean over the first whole targets and all seeds."""
    k = whole(record, cell)
    rows = (row for row in record[table] if row["sigma"] == sigma and row["target"] < k)
    return float(np.mean([row["accuracy"][head] for row in rows if cell in (None, row.get("cell"))]))


def rates() -> str:
    """Success by attack, head and sigma, beside the paper's; the last lines: without poisons, and accuracy."""
    record = read("frozen")
    sigmas, heads = record["settings"]["sigmas"], record["settings"]["heads"]
    lines = []
    for cell in measured(record):
        for head in heads:
            found = [taken(record, "victims", sigma, head, cell) for sigma in sigmas]
            title = f"{TITLES[cell]}, {len(found[0])} targets" if head == heads[0] else ""
            lines.append([title, head, *(f"{percent(np.mean(of))}" for of in found)])
        if cell in OF_PAPER:
            for number, note in ((1, ""), (6, " (ε = 8/255)")):
                title, _, *cells = paper_row(number, cell, note, tuple(sigmas))
                lines.append([title, "*linear*", *cells])
    for head in heads:
        found = [taken(record, "controls", sigma, head) for sigma in sigmas]
        title = "without poisons" if head == heads[0] else ""
        lines.append([title, head, *(f"{percent(np.mean(of))}" for of in found)])
    for head in heads:
        title = "accuracy without poisons" if head == heads[0] else ""
        lines.append([title, head, *(f"{100 * accuracy(record, 'controls', sigma, head):.1f}" for sigma in sigmas)])
    k = whole(record)
    low, high = interval([False] * k)
    note = (
        f"Attack success in %; 0 % of {k} targets is [{percent(low)}–{percent(high)}] at 95 %. "
        f"Seeds of copies 0 to {record['settings']['seeds'] - 1}, of crafting {record['random']['crafting']}, of the "
        f"black-box networks {', '.join(str(seed) for seed, _ in record['random']['alike'])}. "
        f"{core_hours(record, *TABLES):.1f} core-hours."
    )
    return with_source(grid(["", "head", *(f"σ = {s:g}" for s in sigmas)], lines, left=2), COMMAND, record, note=note)


def intervals() -> str:
    """With the published head: targets with their interval, and victims, by attack and sigma."""
    record = read("frozen")
    sigmas, head, lines = record["settings"]["sigmas"], record["settings"]["heads"][0], []
    for cell in (*measured(record), None):
        table = "victims" if cell else "controls"
        said = []
        for sigma in sigmas:
            found = taken(record, table, sigma, head, cell)
            low, high = interval(found)
            victims = [victim for of in won(record, table, sigma, head, cell) for victim in of]
            said.append(f"{sum(found)} [{percent(low)}–{percent(high)} %], {sum(victims)} of {len(victims)}")
        lines.append([TITLES[cell] if cell else "without poisons", *said])
    return grid(["", *(f"σ = {s:g}" for s in sigmas)], lines)


def shift(record: Record, cell: str, sigma: float, head: str) -> float:
    """By how much the poisons move a target's margin against its control of the same sigma: the median over targets."""
    k = whole(record, cell)

    def margins(table: str, target: int) -> float:
        rows = [row for row in record[table] if (row["target"], row["sigma"]) == (target, sigma)]
        return float(np.mean([row["margins"][head] for row in rows if row.get("cell", cell) == cell]))

    return median(margins("victims", i) - margins("controls", i) for i in range(k))


def shifts() -> str:
    """What is left of an attack's pull on the target, with the published head."""
    record = read("frozen")
    sigmas, head, lines = record["settings"]["sigmas"], record["settings"]["heads"][0], []
    for cell in measured(record):
        moved = [shift(record, cell, sigma, head) for sigma in sigmas]
        left = ["", *(f" ({percent(of / moved[0])} %)" for of in moved[1:])]
        said = [f"{of:+.1f}{share}".replace("-", "−") for of, share in zip(moved, left, strict=True)]
        lines.append([TITLES[cell], *said])
    return grid(["", *(f"σ = {s:g}" for s in sigmas)], lines)


def black_box() -> str:
    """What the black-box attacker takes with and without the smallest sigma, and what is left of his pull."""
    record, cell, sigma = read("frozen"), "bullseye, black-box", 0.1
    head = record["settings"]["heads"][0]
    plain, defended = (taken(record, "victims", of, head, cell) for of in (0.0, sigma))
    left = shift(record, cell, sigma, head) / shift(record, cell, 0.0, head)
    return (
        f"Black-box poisons crafted on several networks take {sum(plain)} of {len(plain)} targets undefended and "
        f"{sum(defended)} at σ = {sigma:g}, where {percent(left)} % of their pull is left"
    )


def tried() -> str:
    """The cells on setups that are not reported, undefended."""
    record = read("frozen")
    heads, lines = record["settings"]["heads"], []
    for name, cell in record["cells"]["tried"].items():
        own = [row for row in record["tried"] if row["cell"] == name]
        left = [median(row["poisons"][key] for row in own) for key in ("distance_before", "distance")]
        counts = [f"{sum(row['margins'][head] > 0 for row in own)} of {len(own)}" for head in heads]
        margin = f"{median(row['margins'][heads[0]] for row in own):+.1f}".replace("-", "−")
        lines.append([name, f"{cell['poisons']}", f"{left[0]:.2f} → {left[1]:.2f}", margin, *counts])
    about = ("poisons", "distance to the target, median", f"margin, {heads[0]}, median")
    head = ["cell", *about, *(f"taken, {head}" for head in heads)]
    return grid(head, lines)


def filtered() -> str:
    """What Deep k-NN removes, and what the attack still takes."""
    record = read("frozen")
    heads = record["settings"]["heads"]
    lines = []
    for cell in measured(record):
        k = whole(record, cell)
        own = [row for row in record["filtered"] if row["cell"] == cell and row["target"] < k]
        for sigma in sorted({row["sigma"] for row in own}):
            rows = [row for row in own if row["sigma"] == sigma]
            poisons = float(np.mean([row["poisons_removed"] for row in rows]))
            others = float(np.mean([row["removed"] for row in rows])) - poisons
            of = record["cells"]["reported"][cell]["poisons"]
            counts = [f"{percent(np.mean([row['margins'][head] > 0 for row in rows]))}" for head in heads]
            counts += [f"{100 * np.mean([row['accuracy'][head] for row in rows]):.1f}" for head in heads[:1]]
            lines.append([TITLES[cell], f"{sigma:g}", f"{poisons:.1f} of {of}", f"{others:,.0f}", *counts])
    after = (*(f"success after, {head}" for head in heads), *(f"accuracy after, {head}" for head in heads[:1]))
    head = ["poisons", "σ", "removed: poisons", "others", *after]
    return grid(head, lines)


def sentence() -> str:
    """What was found with the published head, in one sentence."""
    record = read("frozen")
    sigmas, head = record["settings"]["sigmas"], record["settings"]["heads"][0]
    plain = {name: np.mean(taken(record, "victims", 0.0, head, name)) for name in measured(record)}
    left = [
        f"{percent(max(np.mean(taken(record, 'victims', sigma, head, name)) for name in plain))} % at σ = {sigma:g}"
        for sigma in sigmas
        if sigma
    ]
    right = ", ".join(f"{100 * accuracy(record, 'controls', sigma, head):.1f}" for sigma in sigmas)
    return paragraph(
        "Undefended the attacks take "
        + ", ".join(f"{percent(r)} % of {whole(record, n)} targets ({TITLES[n]})" for n, r in plain.items())
        + f". The most that any of them takes of sanitized copies: {', '.join(left)}. "
        f"Accuracy at σ = {', '.join(f'{s:g}' for s in sigmas)}: {right}."
    )


def declared() -> str:
    """What was declared before the run."""
    return "\n".join(paragraph(f"- **{name}**: {text}") for name, text in read("frozen")["declared"].items())


MADE = {
    "frozen": rates,
    "frozen-declared": declared,
    "frozen-filtered": filtered,
    "frozen-found": sentence,
    "frozen-intervals": intervals,
    "frozen-shifts": shifts,
    "frozen-tried": tried,
}
