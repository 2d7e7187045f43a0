"""What ensembles certify and how fast they are made (`benchmarks.ensemble`, `.adaptive`, …)."""

from benchmarks.tables.records import Record, grid, paragraph, read, share, where, with_source
from benchmarks.transfer.plan import FEW, WAYS

RADII = ("0", "0.25", "0.5", "1")


def speed() -> str:
    """Models a minute, one draw after the other and by the flow."""
    record = read("ensemble")
    rates, loop = record["models_a_minute"], f"{record['threads_of_the_loop']} threads, nothing recorded"
    once = 60 / record["flow"]["denoised"]["steady_seconds_a_model"]
    rows = [
        [f"one draw after the other in one process, float32, {loop}", f"{rates['loop']:.0f}", "1"],
        ["`flows.smooth`, once begun", f"{once:.0f}", f"{record['ratio_once_begun']:.1f}"],
        [
            "`flows.smooth`, from the command to the registered version, all included",
            f"{rates['flow']:.0f}",
            f"{record['ratio']:.1f}",
        ],
    ]
    cost = f"Tracking and orchestration take {record['books_core_ms_a_model']:.0f} core-milliseconds per model."
    return with_source(grid(["", "models a minute", "ratio"], rows), "ensemble", record, note=cost)


def thousand() -> str:
    """Certified accuracy of 100 and 1,000 models, of both ways."""
    record = read("ensemble")
    radii = list(record["certified"]["denoised"]["1000"])
    rows = [
        [way, f"{int(m):,}", *(share(of[m][r]) if of[m][r] else "-" for r in radii)]
        for m in ("100", "1000")
        for way, of in record["certified"].items()
    ]
    table = grid(["", "m", *(f"R = {r}" for r in radii)], rows)
    return with_source(table, "ensemble", record, note="It needs `dvc repro denoiser` first.")


def stopping() -> str:
    """Where two rules stopped, gate by gate, and what they saved."""
    record = read("adaptive")
    rules = ("looks", "sequence")
    rows = []
    for i, gate in enumerate(record["gates"]):
        asked = [
            f"accuracy ≥ {gate['accuracy']:g}",
            *(f"R = {r:g} ≥ {least:g}" for r, least in gate["certified_accuracy"]),
        ]
        stops = [record[rule]["stops"][i] for rule in rules]
        cells = [f"{100 * gate['margin']:+.1f}", gate["at_m"], *(f"{s['verdict']} at {s['t']}" for s in stops)]
        rows.append([", ".join(asked), *cells])
    head = ["what the gate asks", f"margin at m = {record['m']:,}, points", "decision there", *rules]
    said = []
    for rule in rules:
        of = record[rule]
        kept = of["saving"]["of_all_models"], of["saving"]["mean_of_ratios"]
        least, wrong = of["histories_saving"]["of_all_models"]["least"], sum(of["histories_wrong_by_gate"])
        said.append(
            f"- *{rule}*: {of['wrong']} wrong decisions; {kept[0]:.1f} times fewer models in all (mean of m / stop: "
            f"{kept[1]:.1f}). In {of['histories']} other orders of the same draws: {wrong} wrong decisions in "
            f"{of['histories'] * len(rows)}, {least:.1f} times fewer models at least."
        )
    return with_source(
        "\n".join([grid(head, rows, left=5), "", *map(paragraph, said)]), "adaptive --histories 20", record
    )


def kills() -> str:
    """What an ensemble that was killed again and again cost."""
    record = read("faults")
    victims = [kill["victim"] for kill in record["kills"]]
    named = {"flow": "the flow", "worker": "a worker", "server": "the MLflow server"}
    often = ", ".join(f"{victims.count(key)} × {words}" for key, words in named.items())
    same = "are those" if record["votes_equal"] else "are not those"
    return paragraph(
        f"One ensemble of {record['m']} models was killed {len(victims)} times at random moments: {often}. Its votes "
        f"{same} of an undisturbed run. It took {record['seconds']:,.0f} s in place of "
        f"{record['undisturbed_seconds']:,.0f} s, with {record['starts']} starts; at least "
        f"{record['draws_begun_in_vain']} draws were begun in vain (`python -m benchmarks.faults`, {where(record)})."
    )


def transfer() -> str:
    """Votes on frozen and on distilled features, noise removed and left in."""
    record, lines = read("transfer"), []
    at = [record["radii"].index(float(r)) for r in RADII]
    few = f"{FEW * record['raw_images']:,.0f} images"
    shown = {
        f"frozen, ridge, {few}": "frozen | ridge | few",
        "frozen, ridge": "frozen | ridge | all",
        "frozen, LDA": "frozen | lda | all",
        "distilled, LDA": "distilled | lda | all",
    }
    for sigma, rows in record["rows"].items():
        for title, key in shown.items():
            pair = [rows[f"{way} | {key}"] for way in WAYS]
            cells = [" / ".join(share(row["vote"]) for row in pair)]
            cells += [" / ".join(share(row["certified"][i]) for row in pair) for i in at]
            lines.append([sigma, title, *("-" if cell == "0 / 0" else cell for cell in cells)])
    table = grid(["σ", "extractor, head", "vote", *(f"R = {r}" for r in RADII)], lines, left=2)
    return with_source(table, "transfer --root DIR --denoiser DIR --extractor FILE", record)


def steps() -> str:
    """What each step is worth for the frozen extractor's vote."""
    record = read("transfer")
    compared = {
        "all raw images in place of two fifths": ("ridge | all", "ridge | few"),
        "LDA in place of ridge": ("lda | all", "ridge | all"),
        "ridge drawn towards the extractor's own head": ("ridge, prior | all", "ridge | all"),
        "class means in place of LDA": ("mean | all", "lda | all"),
    }
    rows = []
    for title, (after, before) in compared.items():
        votes = [
            [of[f"denoised | frozen | {key}"]["vote"] for of in record["rows"].values()] for key in (after, before)
        ]
        rows.append([title, *(f"{100 * (a - b):+.1f}" for a, b in zip(*votes, strict=True))])
    return grid(["step", *(f"σ = {sigma}" for sigma in record["rows"])], rows)


def fashion() -> str:
    """Votes on Fashion-MNIST from scratch."""
    record = read("fashion")
    titles = {
        "denoised": "denoised, MLP",
        "noise only": "noise only, the same MLP",
        "noise only, linear": "noise only, linear",
    }
    lines = []
    for row in sorted(record["rows"].values(), key=lambda row: row["sigma"]):
        seconds = row["sanitize_seconds_a_model"] + row["train_seconds_a_model"]
        cells = [share(row["certified"][r]) if row["certified"][r] else "-" for r in RADII]
        lines.append(
            [
                f"{row['sigma']:g}",
                titles[row["ensemble"]],
                share(row["vote"]),
                f"{row['abstentions']}",
                *cells,
                f"{seconds:.1f}",
            ]
        )
    head = ["σ", "", "vote", "abstain", *(f"R = {r}" for r in RADII), "seconds a model"]
    return with_source(grid(head, lines, left=2), "fashion --root DIR", record)


def end_of_curve() -> str:
    """What denoised and noise-only linear models certify at R = 1.4 and sigma 1, the end of the curve."""
    record = read("fashion")
    start, stop, steps = record["curve_radii"]
    at = round((1.4 - start) / (stop - start) * (steps - 1))
    ours, linear = (share(record["rows"][f"{name}, 1"]["curve"][at]) for name in ("denoised", "noise only, linear"))
    return f"{ours} against {linear}"


def reading() -> str:
    """How long it takes to read a thousand models back and to certify them."""
    record = read("certify")
    seconds = record["certify_seconds"]
    lines = [
        f"- Reading {record['m']:,} models back takes {record['assemble_seconds']:.1f} s: {record['child_runs']:,} "
        f"child runs in SQLite, {record['points']:,} votes each, every hash checked.",
        f"- Certifying {record['points']:,} points of {record['classes']} classes from them takes "
        f"{seconds['binary']:.2f} s (`margin` {seconds['margin']:.2f} s).",
    ]
    return with_source("\n".join(map(paragraph, lines)), "certify", record)


def largest(digits: Record) -> tuple[str, Record]:
    """The largest number of models of a record, and what the denoised ones certify."""
    of = digits["certified"]["denoised"]
    m = max(of, key=int)
    return m, of[m]


MADE = {
    "ensemble-speed": speed,
    "ensemble": thousand,
    "stopping": stopping,
    "kills": kills,
    "transfer": transfer,
    "transfer-steps": steps,
    "transfer-own-head": lambda: share(read("transfer")["own_head_accuracy"]),
    "fashion": fashion,
    "fashion-end": end_of_curve,
    "certify-seconds": reading,
}
