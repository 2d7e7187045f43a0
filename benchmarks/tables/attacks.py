"""What attacks do against sanitizing (`benchmarks.redteam`), and how fast they are crafted (`benchmarks.crafting`)."""

from typing import Any

from benchmarks.paper.tables import table as printed
from benchmarks.tables.records import Record, grid, paragraph, percent, read, span, with_source
from cleanlabel.models.rounding import down_text
from cleanlabel.redteam.drill.report import NAMES

FROZEN = ("frogs", "convex", "bullseye")
VARIANTS = {
    "bullseye-l2": "Bullseye, ℓ2 ≤ 3.5 an image",
    "bullseye-black-box": "Bullseye, black-box (crafted on a ResNet-56)",
    "bullseye-adaptive": "Bullseye, crafted through the sanitizer",
}
SCRATCH = {
    "label-consistent": "Label-consistent",
    "witches-brew": "Witches' Brew",
    "sleeper-agent": "Sleeper Agent",
    "hidden-trigger-scratch": "Hidden trigger",
    "hidden-trigger": "Hidden trigger on a frozen extractor",
}
COMMAND = "redteam --root DIR --setups FILE --denoiser DIR --extractor FILE --deeper FILE --fashion-denoiser DIR"


def drill(name: str) -> dict[float, Record]:
    """A drill's rows, by sigma."""
    return {row["sigma"]: row for row in read("redteam")["drills"][name]["rows"]}


def rate(name: str, sigma: float) -> float:
    """A drill's attack success at a sigma."""
    found: float = drill(name)[sigma]["success"]
    return found


def frozen() -> str:
    """Attacks on a frozen extractor, with the paper's rows."""
    sigmas, lines = (0.0, 0.1, 0.25, 0.5, 1.0), []
    for name in (*FROZEN, *VARIANTS):
        rows = drill(name)
        lines.append(
            [VARIANTS.get(name) or NAMES[name], f"{next(iter(rows.values()))['targets']}", *_cells(rows, sigmas)]
        )
        if name in FROZEN:
            lines += [paper_row(number, name, note, sigmas) for number, note in ((1, ""), (6, " (ε = 8/255)"))]
    return with_source(grid(["attack", "targets", *(f"σ = {s:g}" for s in sigmas)], lines), COMMAND, read("redteam"))


def _cells(rows: dict[float, Record], sigmas: tuple[float, ...]) -> list[str]:
    found = (rows.get(sigma) for sigma in sigmas)
    return ["" if row is None else f"({100 * row['accuracy']:.1f}) {percent(row['success'])}" for row in found]


def paper_row(number: int, attack: str, note: str, sigmas: tuple[float, ...]) -> list[str]:
    """A line of one of the paper's tables: title, no number of targets, and its cells."""
    plain: dict[str, Any] = {"attack": attack, "knowledge": "white-box", "norm": "linf"}
    line = next(line for line in printed(number).lines if line.about.items() >= plain.items())
    cells = (line.cells.get(f"{sigma:g}") for sigma in sigmas)
    return [f"*the paper, Table {number}{note}*", "", *("" if c is None else f"*({c[0]:.1f}) {c[1]:g}*" for c in cells)]


def scratch() -> str:
    """Attacks on training from scratch, and hidden trigger on a frozen extractor."""
    sigmas, lines = (0.0, 0.25, 0.5, 1.0), []
    for name, title in SCRATCH.items():
        whole, rows = read("redteam")["drills"][name], drill(name)
        chance = " / ".join(percent(rows[sigma]["control"]) for sigma in sigmas)
        about = [title, whole["bound"].split()[0], f"{whole['poisons']}", f"{rows[0.0]['targets']}"]
        lines.append([*about, *_cells(rows, sigmas), chance])
    head = ["attack", "ε", "poisons", "goals", *(f"σ = {s:g}" for s in sigmas), "without poisons"]
    return with_source(grid(head, lines), COMMAND, read("redteam"))


def not_stopped() -> str:
    """The attacks that are left, worst first."""
    brew = [rate("witches-brew", sigma) for sigma in (0.0, 0.25, 0.5, 1.0)]
    rivals = [row["success"] for row in read("compare_witches-brew")["rows"] if row["name"] == "sanitize"]
    lines = read("conv")["summary"]
    conv = " → ".join(f"{row['taken']} of {row['targets']} (σ = {row['sigma']:g})" for row in (lines[0], lines[-1]))
    hidden = [rate("hidden-trigger-scratch", sigma) for sigma in (0.25, 0.5, 1.0)]
    sleeper, label = (
        {s: f"{percent(rate(n, s))} %" for s in (0.25, 1.0)} for n in ("sleeper-agent", "label-consistent")
    )
    frozen_trigger, adaptive, l2 = drill("hidden-trigger"), drill("bullseye-adaptive"), drill("bullseye-l2")
    items = [
        f"**Witches' Brew from scratch**, with more poisons than it needs: {span(brew)} of five goals at ε = 64/255 "
        "and σ = 0 to 1; "
        f"{span(rivals)} at the published ε = 16/255 and σ = 0.1 and 0.25 ([rival defences](defences.md)). With "
        f"fewer for what they must move it is stopped in part: {conv} on a conv net ([from scratch](from-scratch.md)).",
        f"**Hidden trigger from scratch**: {span([rate('hidden-trigger-scratch', 0.0)])} without sanitizing, "
        f"{span(hidden)} with it.",
        f"**Sleeper Agent and label-consistent poisons at σ = 0.25**: {sleeper[0.25]} and {label[0.25]} are left. At "
        f"σ = 1 it is {sleeper[1.0]} and {label[1.0]}.",
        f"**Hidden trigger on a frozen extractor**: {percent(frozen_trigger[0.25]['success'])} % are left at σ = 0.25, "
        f"{percent(frozen_trigger[0.5]['success'])} % at 0.5.",
        f"**An attacker who crafts through the sanitizer**: {percent(adaptive[0.1]['success'])} % of "
        f"{adaptive[0.1]['targets']} targets at σ = 0.1, {percent(adaptive[0.25]['success'])} % at 0.25.",
        f"**Bullseye with a bound on the ℓ2 norm (3.5 an image)**: {percent(l2[0.1]['success'])} % of "
        f"{l2[0.1]['targets']} targets at σ = 0.1, {percent(l2[0.25]['success'])} % at 0.25.",
    ]
    return "\n".join(paragraph(f"- {item}") for item in items)


def certifiable() -> str:
    """What an ensemble certifies at most, beside the poisons' norms."""
    rows = drill("bullseye")
    return grid(
        ["σ", *(f"{sigma:g}" for sigma in rows if sigma)],
        [["certified R", *(down_text(row["radius_limit"], 2) for sigma, row in rows.items() if sigma)]],
    )


def least_norm() -> str:
    """The least joint norm of the poisons of all drills."""
    drills = read("redteam")["drills"].values()
    return f"{min(row['joint_l2_least'] for of in drills for row in of['rows']):.1f}"


def crafting() -> str:
    """Images times iterations a second, ours and the published loops'."""
    of = read("crafting")
    rows = {"ours": "images_x_iterations_per_s", "plain loop": "plain"}
    lines = [[title, *(f"{each[key]:,.0f}" for each in of["attacks"].values())] for title, key in rows.items()]
    lines.append(["ratio", *(f"**{each['ratio']:.2f}**" for each in of["attacks"].values())])
    note = f"ResNet-20, {of['poisons']} poisons, {of['steps']} steps, medians of {of['rounds']} rounds."
    return with_source(grid(["", *of["attacks"]], lines), "crafting --extractor FILE", of, note=note)


MADE = {
    "attacks-frozen": frozen,
    "attacks-scratch": scratch,
    "attacks-not-stopped": not_stopped,
    "attacks-certifiable": certifiable,
    "attacks-least-norm": least_norm,
    "crafting": crafting,
}
