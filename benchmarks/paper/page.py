"""The page that puts the paper's tables and ours side by side: made from the data and the results, nothing typed in."""

from collections.abc import Iterator

from benchmarks.common.record import RESULTS
from benchmarks.paper.commands import measuring
from benchmarks.paper.figure import RADII, WAYS, Curve, curves
from benchmarks.paper.notes import NOT_SEPARATED, OPEN, PAPER_ITSELF, SETUP
from benchmarks.paper.ours import Ours, filled, read
from benchmarks.paper.tables import BOUNDS, FOLDER, NUMBERS, Cell, Line, statements, table
from cleanlabel.redteam.drill.report import NAMES

PAGE = FOLDER / "README.md"
INTRODUCTION = """# The paper's tables, and ours beside them

Made by `python -m benchmarks.paper page` from the JSON files in this folder and the figures in `benchmarks/results/`;
not written by hand. The paper: Hong, Carlini, Kurakin, *Certified Robustness to Clean-Label Poisoning Using Diffusion
Denoising*. `python -m benchmarks.paper check FILE` holds every row against the paper's text.

Each cell: (clean accuracy) attack success, in %. The paper's rows are in italics, its means over 100 runs; ours have
the 95 % interval of the success over their targets. `python -m benchmarks.paper fill 5 --scale cpu-small` prints the
commands that measure our column and fills it from what they left; `--run` runs them first. Two scales: `cpu-small`,
what a CPU of two cores measures in hours, and `gpu-full`, the paper's numbers of images, poisons and runs.

**Agrees** means only that the paper's success lies in our interval, and is asked only where the poisons have the
paper's bound. With 10 targets such an interval is up to 60 points wide: little is needed to agree. A set-up that
differs this much cannot show the paper wrong either.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for number in NUMBERS:
        parts.append("\n".join(section(number, "cpu-small")))
    parts.append("\n".join(figure_section("cpu-small")))
    parts.append("\n".join(["## Where the paper disagrees with itself", "", *(f"- {each}" for each in PAPER_ITSELF)]))
    parts.append(f"{measured_on()}")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def section(number: int, scale: str) -> list[str]:
    """One table: the paper's rows, ours below each, what agrees, what does not and why, and the commands."""
    asked = table(number)
    pairs = [(line, filled(number, line, scale)) for line in asked.lines]
    lines = [f"## Table {number}. {asked.title}", ""]
    lines += [f"Row: {asked.row}. Column: {asked.column}.", ""]
    lines += grid(number, pairs)
    lines += ["", *verdict(pairs)]
    if SETUP[str(number)]:
        lines += ["", f"**Why.** {SETUP[str(number)]} {NOT_SEPARATED}"]
    if OPEN[str(number)]:
        lines += ["", "**Not filled.**", "", *(f"- {each}" for each in OPEN[str(number)])]
    return [*lines, *command_lines(str(number))]


def grid(number: int, pairs: list[tuple[Line, dict[str, Ours]]]) -> list[str]:
    """The table itself."""
    columns = table(number).columns
    heads = [f"σ = {c}" if c[0].isdigit() else c for c in columns]
    taken = ["removed: poisons / others"] if number == 4 else []
    lines = [row(["attack", "", *taken, *heads]), row(["---"] * (2 + len(taken) + len(heads)))]
    for line, ours in pairs:
        said = ", ".join([*(line.about[key] for key in ("knowledge", "initialization") if key in line.about), "paper"])
        about = f"{said}, {'ℓ2' if line.about['norm'] == 'l2' else f'{BOUNDS[number]}/255'}"
        removed = [f"*{line.removed[0]} / {line.removed[1]}*"] if line.removed else taken and [""]
        cells = [italic(line.cells[c]) for c in columns]
        lines.append(row([f"*{NAMES[line.about['attack']]}*", f"*{about}*", *removed, *cells]))
        if ours:
            first = next(iter(ours.values()))
            removed = ["{:.1f} / {:.1f}".format(*ours["deep-knn"].removed)] if "deep-knn" in ours else taken and [""]
            cells = [our_cell(ours.get(c)) for c in columns]
            lines.append(row(["", f"ours: {first.setup}; {first.targets} targets", *removed, *cells]))
    return lines


def verdict(pairs: list[tuple[Line, dict[str, Ours]]]) -> Iterator[str]:
    """How many cells agree, which do not, and how accuracy differs."""
    compared = [
        (line, column, paper, ours[column])
        for line, ours in pairs
        for column, paper in line.cells.items()
        if paper and column in ours and ours[column].same_bound
    ]
    beside = sum(not cell.same_bound for _, ours in pairs for cell in ours.values())
    if not compared:
        yield "**What agrees.** Nothing can be compared." + (
            f" {beside} cells of ours have another bound than the paper's." if beside else ""
        )
        return
    apart = [each for each in compared if not each[3].covers(each[2][1])]
    yield (
        f"**What agrees.** {len(compared)} cells have the paper's bound; in {len(compared) - len(apart)} of them the "
        "paper's success lies in our interval." + (f" {beside} more have another bound." if beside else "")
    )
    yield ""
    differences: dict[str, list[float]] = {}
    for _, column, paper, ours in compared:
        differences.setdefault(column, []).append(ours.accuracy - paper[0])
    named = ", ".join(f"{label(c)} {sum(d) / len(d):+.1f}" for c, d in differences.items())
    words = "; ".join(
        f"{NAMES[line.about['attack']]}{', ℓ2' if line.about['norm'] == 'l2' else ''}, {label(column)}: "
        f"{paper[1]:g} there, {ours.success:.0f} [{ours.low:.0f}–{ours.high:.0f}] here"
        for line, column, paper, ours in apart
    )
    yield f"**What does not.** {words or 'No success lies outside'}."
    yield ""
    yield f"Clean accuracy, ours less the paper's, in points: {named}."


def figure_section(scale: str) -> list[str]:
    """What is said with Figure 1, and our ensembles."""
    said = statements()
    found = curves(scale)
    lines = ["## Figure 1. Certified radius and accuracy", "", "| the paper's statement | ours |", "| --- | --- |"]
    for name, words in our_words(found).items():
        lines.append(row([said[name]["says"], words]))
    lines += ["", "Certified accuracy, noise removed / noise left in, α = .001 for each test image:", ""]
    lines += [row(["ensemble", "σ", "m", "vote", *(f"R = {r}" for r in RADII)]), row(["---"] * (4 + len(RADII)))]
    for curve in found:
        cells = [both(curve, r) for r in RADII]
        votes = " / ".join(f"{curve.vote[way]:.3f}" for way in WAYS if way in curve.vote)
        lines.append(row([curve.setup, curve.sigma, str(curve.m), votes, *cells]))
    lines += ["", f"**Why.** {SETUP['figure1']} {NOT_SEPARATED}"]
    lines += ["", "**Not filled.**", "", *(f"- {each}" for each in OPEN["figure1"])]
    return [*lines, *command_lines("figure1")]


def our_words(found: list[Curve]) -> dict[str, str]:
    """Our side of each statement, in the figures that were measured."""
    named = {(curve.setup.partition(",")[0], curve.setup, curve.sigma): curve for curve in found}
    frozen = [c for (_, setup, _), c in named.items() if "frozen" in setup]
    distilled = [c for (_, setup, _), c in named.items() if "distilled" in setup]
    digits = read(RESULTS / "ensemble.json")
    gaps = [
        f"{curve.setup}, σ = {curve.sigma}, R = {r}: {both(curve, r)}"
        for curve in found
        for r in ("0.25", "1")
        if r == ("1" if curve.certified["denoised"].get("1") else "0.25")
    ]
    spread = "; ".join(
        f"{kind} {100 * curves_[0].vote['denoised']:.1f} % at σ = {curves_[0].sigma} to "
        f"{100 * curves_[-1].vote['denoised']:.1f} % at σ = {curves_[-1].sigma}"
        for kind, curves_ in (("frozen features", frozen), ("distilled features", distilled))
    )
    bullseye = filled(1, table(1).lines[2], "cpu-small")
    before, after = bullseye["0"], bullseye["0.1"]
    return {
        "curve": "the table below; R is the joint radius over all training images",
        "models": f"at most {max(c.m for c in found):,} models: of digits, {digits['models_a_minute']['flow']:.0f} a "
        "minute on two cores",
        "accuracy": f"the vote of 100 on CIFAR-10, heads on a ResNet-20: {spread}",
        "noise-only": "at equal training, removed / left in: " + "; ".join(gaps) + ". More training for the noise-only "
        "side was not tried",
        "few-runs": "one training run in every cell of Tables 1 to 6 above; only the ensemble is certified",
        "transfer": f"Bullseye at σ = 0.1: success {before.success:.0f} % to {after.success:.0f} % "
        f"[{after.low:.0f}–{after.high:.0f}], accuracy {after.accuracy - before.accuracy:+.1f} "
        "points. The paper's words join the two claims: these poisons' joint ℓ2 is far above any R that is certified",
    }


def both(curve: Curve, radius: str) -> str:
    """Certified accuracy at a radius, for the ways that were measured; a dash where nothing is."""
    values = [curve.certified[way].get(radius) for way in WAYS if way in curve.certified]
    if not any(values):
        return "–"
    return " / ".join("–" if value is None else f"{value:.3f}" for value in values)


def command_lines(name: str) -> Iterator[str]:
    """Both scales' commands."""
    small = measuring(name, "cpu-small")
    yield from ("", f"`python -m benchmarks.paper fill {name} --scale cpu-small` stands for:", "")
    yield from (["```", *small.commands, "```"] if small.commands else [small.why])
    yield from ("", "<details><summary><code>gpu-full</code>: not measured: no GPU</summary>", "", "```")
    yield from measuring(name, "gpu-full").commands
    yield from ("```", "", "</details>")


def measured_on() -> str:
    """The machines and days of the results that the page quotes."""
    names = [
        "redteam",
        *sorted(path.stem for path in RESULTS.glob("compare_*.json")),
        "ensemble",
        "fashion",
        "transfer",
    ]
    lines = ["## Where and when", "", "| result | day | machine |", "| --- | --- | --- |"]
    for name in names:
        content = read(RESULTS / f"{name}.json")
        facts = content["machine"]
        words = f"{facts['cores']} cores, {facts['cpu']}{', AMX' if facts['amx_bf16'] else ''}, no GPU"
        note = f"; {content['note']}" if content.get("note") else ""
        lines.append(row([f"`benchmarks/results/{name}.json`", content["date"], words + note]))
    return "\n".join(lines)


def italic(cell: Cell) -> str:
    """A cell of the paper."""
    return "" if cell is None else f"*({cell[0]:g}) {cell[1]:g}*"


def our_cell(cell: Ours | None) -> str:
    """A cell of ours, with its interval; empty where nothing was measured."""
    if cell is None:
        return ""
    return f"({cell.accuracy:.1f}) {cell.success:.0f} [{cell.low:.0f}–{cell.high:.0f}]"


def label(column: str) -> str:
    """The name of a column."""
    return f"σ = {column}" if column[0].isdigit() else column


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
