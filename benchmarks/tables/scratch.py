"""Witches' Brew against conv networks trained from scratch (`benchmarks.conv`)."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from benchmarks.conv.measures import HIGH
from benchmarks.conv.run import core_hours
from benchmarks.conv.statistics import power, student, summary
from benchmarks.tables.records import Record, grid, paragraph, percent, read, share, with_source
from cleanlabel.redteam.drill.rows import interval

COMMAND = "conv --root DIR --denoiser DIR"


def rows(table: str, cell: str) -> list[Record]:
    """A cell's rows of one of the record's lists."""
    return [row for row in read("conv").get(table, []) if row["cell"] == cell]


def source(table: str, note: str, *tables: str) -> str:
    """The table with command, machine, day and core-hours."""
    record = read("conv")
    return with_source(table, COMMAND, record, note=f"{note} {core_hours(record, *tables):.1f} core-hours.".strip())


def signed(value: float) -> str:
    """A number of logits, with its sign."""
    return f"{value:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    """A p-value with two digits."""
    return "<.001" if value < 0.001 else f"{value:.2g}".removeprefix("0")


def evidence() -> str:
    """Success, controls and margins by sigma, over the first whole targets."""
    record = read("conv")
    lines = []
    for row in record["summary"]:
        low, high = (percent(end) for end in row["interval"])
        lines.append(
            [
                f"{row['sigma']:g}",
                f"{row['taken']} of {row['targets']} [{low}–{high} %]",
                f"{row['victims']} of {row['of_victims']}",
                f"{row['control']} of {row['targets']}",
                p_value(row["mcnemar"]) if row["sigma"] else "-",
                f"{signed(row['shift'])} [{signed(row['shift_low'])}, {signed(row['shift_high'])}]",
                signed(row["clean_margin"]),
                f"{share(row['accuracy'])} / {share(row['clean_accuracy'])}",
            ]
        )
    head = [
        "σ", "targets taken [95 %]", "victims", "taken without poisons", "McNemar's p", "margin shift [95 %]",
        "clean margin", "accuracy, poisoned / clean",
    ]  # fmt: skip
    seeds = record["settings"]["seeds"]
    note = f"Seeds of victims 0 to {seeds - 1}, of targets {record['settings']['evidence_seed']}."
    return source(grid(head, lines), note, "controls", "victims")


def tuning() -> str:
    """The cells on the tuning targets, undefended."""
    record = read("conv")
    lines = []
    for name, cell in record["cells"]["tuning"].items():
        own = rows("tuning", name)
        if not own:
            continue
        taken = sum(row["margin"] > 0 for row in own)
        before, after = (median(row["poisons"][key] for row in own) for key in ("mismatch_before", "mismatch"))
        about = [f"{cell[key]}" for key in ("poisons", "steps", "networks")]
        chosen = "**" if name == record["cells"]["chosen"] else ""
        lines.append(
            [
                f"{chosen}{name}{chosen}", *about, f"{cell['victim']['epochs']}", f"{taken} of {len(own)}",
                f"{before:.2f} → {after:.2f}", signed(float(np.mean([r["margin"] - r["clean_margin"] for r in own]))),
            ]
        )  # fmt: skip
    head = ["cell", "poisons", "steps", "networks", "epochs", "targets taken", "1 − cosine, median", "margin shift"]
    seed = record["settings"]["tuning_seed"]
    return source(grid(head, lines), f"Seed of victims 0, of targets {seed}.", "tuning")


def why() -> str:
    """The ablation: success and margin shift with one victim per target, beside what the poisons look like."""
    record = read("conv")
    sigmas = record["settings"]["sigmas"]
    lines = []
    for name in record["cells"]["why"]:
        one = [row for row in rows("victims", name) if not row["seed"]]
        found = summary(one, [row for row in rows("controls", name) if not row["seed"]], sigmas, 1)
        if not found:
            continue
        k = found[0]["targets"]
        looks = [row["poisons"] for row in one if row["target"] < k and not row["sigma"]]
        smaller = [r for r in rows("scaled", name) if r["target"] < k]
        scales = sorted({row["scale"] for row in smaller}, reverse=True)
        clean = next(row["margins"] for row in rows("controls", name) if not row["sigma"] and not row["seed"])
        of_scale = [[row["margin"] - clean[row["target"]] for row in smaller if row["scale"] == s] for s in scales]
        lines.append(
            [
                name, f"{k}",
                f"{median(of['coherence'] for of in looks):.2f}", f"{median(of['high'] for of in looks):.2f}",
                *(f"{row['taken']}" for row in found),
                " / ".join(signed(row["shift"]) for row in found),
                signed(found[0]["clean_margin"]), f"{-found[0]['shift'] / found[0]['clean_margin']:.1f}",
                " / ".join(signed(float(np.mean(of))) for of in of_scale) or "-",
            ]
        )  # fmt: skip
    head = [
        "network", "targets", "coherence", f"energy at ≥ {HIGH} cycles", *(f"taken, σ = {s:g}" for s in sigmas),
        "margin shift at these σ", "clean margin", "headroom",
        "shift with the change × " + " / ".join(f"{s:g}" for s in _scales()),
    ]  # fmt: skip
    return source(grid(head, lines), "Seed of victims 0. With the evidence", "controls", "victims", "scaled")


def kept() -> str:
    """What one sanitizing keeps of the poisons' change, by network and sigma."""
    record = read("conv")
    lines = []
    for name in record["cells"]["why"]:
        for sigma in record["settings"]["sigmas"]:
            own = [r["kept"] for r in rows("victims", name) if sigma and r["sigma"] == sigma and not r["seed"]]
            if own:
                parts = (f"{np.mean([of[part] for of in own]):.2f}" for part in ("all", "low", "high", "shared"))
                lines.append([name, f"{sigma:g}", f"{len(own)}", *parts])
    head = ["network", "σ", "targets", "all", f"below {HIGH} cycles", f"from {HIGH} cycles on", "the shared direction"]
    return grid(head, lines, left=1)


RIVALS = {
    "spectral": "spectral signatures",
    "deep-knn": "Deep k-NN",
    "dpa": "Deep Partition Aggregation",
    "friends": "FrieNDs",
}


def rivals() -> str:
    """No defence, ours, and rival defences against the same poisons, one victim (seed 0) per target.

    Every line is of the same targets: the first that all measured defences have. One line of text without any.
    """
    record = read("conv")
    of_rivals = {clean["defence"]: (clean, []) for clean in record.get("rival_controls", [])}
    for row in record.get("rivals", []):
        of_rivals[row["defence"]][1].append(row)
    measured = {name: (clean, own) for name, (clean, own) in of_rivals.items() if own}
    ours = {}
    for sigma in record["settings"]["sigmas"]:
        own = [row for row in rows("victims", "conv") if row["sigma"] == sigma and not row["seed"]]
        clean = next(row for row in rows("controls", "conv") if row["sigma"] == sigma and not row["seed"])
        name = f"**sanitize**, σ = {sigma:g}" if sigma else "none"
        ours[name] = (clean | {"seconds": clean["core_seconds"]}, own)
    k = min(first_targets(own) for _, own in (*ours.values(), *measured.values()))
    if not measured or not k:
        return "No rival has been measured on a whole target yet."
    lines = [_rival(name, own, clean, k) for name, (clean, own) in (ours | measured).items()]
    head = [
        "defence", "targets taken [95 %]", "without poisons", "margin shift", "accuracy, poisoned / clean",
        "removed: poisons / others", "core-seconds",
    ]  # fmt: skip
    note = f"The first {k} targets. Seed of victims 0, of targets {record['settings']['evidence_seed']}. The rivals:"
    return source(grid(head, lines), note, "rivals", "rival_controls")


def first_targets(found: list[Record]) -> int:
    """How many of the first targets have a row."""
    done = {row["target"] for row in found}
    return next(k for k in range(len(done) + 1) if k not in done)


def _rival(defence: str, found: list[Record], clean: Record, k: int) -> list[str]:
    found = [row for row in found if row["target"] < k]
    taken = [row.get("taken", row["margin"] > 0) for row in found]  # equal votes are no margin, yet have an answer
    without = clean.get("taken", [margin > 0 for margin in clean["margins"]])[:k]
    low, high = (percent(end) for end in interval(taken))
    shift = float(np.mean([row["margin"] for row in found]) - np.mean(clean["margins"][:k]))
    removed = "-"
    if "removed" in clean:
        poisons = np.mean([row["poisons_removed"] for row in found])
        removed = f"{poisons:.0f} / {np.mean([row['removed'] for row in found]) - poisons:,.0f}"
    return [
        RIVALS.get(defence, defence.replace("-", " ")),
        f"{sum(taken)} of {k} [{low}–{high} %]",
        f"{sum(without)}",
        f"{shift:+.2f} of the votes".replace("-", "−") if defence == "dpa" else signed(shift),
        f"{share(float(np.mean([row['accuracy'] for row in found])))} / {share(clean['accuracy'])}",
        removed,
        f"{clean['seconds']:.0f}",
    ]


def _scales() -> Sequence[float]:
    return sorted({row["scale"] for row in read("conv").get("scaled", [])}, reverse=True)


def declared() -> str:
    """What was declared before the run."""
    return "\n".join(paragraph(f"- **{name}**: {text}") for name, text in read("conv")["declared"].items())


def found() -> str:
    """Success and margin shift by sigma, in one sentence each."""
    lines = read("conv")["summary"]
    k = lines[0]["targets"]
    taken = [f"{row['taken']} at σ = {row['sigma']:g}" for row in lines[1:]]
    shifts = [f"{signed(row['shift'])} at σ = {row['sigma']:g}" for row in lines[1:]]
    without = max(row["control"] for row in lines)
    items = [
        f"**Success**: without a defence the attack takes {lines[0]['taken']} of {k} targets; {', '.join(taken)}. "
        f"Clean networks take {f'at most {without} at any σ' if without else 'none'}.",
        f"**Margin**: the poisons move the target by {signed(lines[0]['shift'])} logits towards the intended class "
        f"without a defence; {', '.join(shifts)}.",
        f"**Accuracy**: {share(lines[0]['clean_accuracy'])} on raw images, "
        + ", ".join(f"{share(row['clean_accuracy'])} at σ = {row['sigma']:g}" for row in lines[1:])
        + ".",
    ]
    return "\n".join(paragraph(f"- {item}") for item in items)


def first() -> Record:
    """The undefended line."""
    found: Record = read("conv")["summary"][0]
    return found


def at(sigma: float) -> Record:
    """The line of a sigma."""
    found: Record = next(row for row in read("conv")["summary"] if row["sigma"] == sigma)
    return found


def power_here() -> str:
    """The power of McNemar's test with the targets at hand."""
    k = first()["targets"]
    cases = ((0.65, 0.09), (0.65, 0.3), (0.09, 0.03))
    said = [f"{percent(b)} % against {percent(a)} %: {percent(power(b, a, k))} %" for b, a in cases]
    return f"with {k} targets, {'; '.join(said)}"


def left() -> str:
    """The share of the undefended margin shift that is left, by sigma."""
    lines = read("conv")["summary"]
    whole = np.array(lines[0]["shifts"])
    said = []
    for row in lines[1:]:
        mean, low, high = student((np.array(row["shifts"]) / whole.mean()).tolist())
        said.append(f"{percent(mean)} % [{percent(low)} to {percent(high)}] at σ = {row['sigma']:g}")
    return ", ".join(said)


MADE = {
    "from-scratch-found": found,
    "from-scratch": evidence,
    "from-scratch-tuning": tuning,
    "from-scratch-why": why,
    "from-scratch-kept": kept,
    "from-scratch-rivals": rivals,
    "from-scratch-declared": declared,
    "from-scratch-power": power_here,
    "from-scratch-left": left,
}
