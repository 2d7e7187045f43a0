"""What `make demo` left in reports/, and its own drill."""

import csv
import math

from benchmarks.tables.records import REPORTS, Record, grid, percent, read, report, share, with_source
from cleanlabel.flows.certificate.figures import what_it_buys
from cleanlabel.flows.certificate.wording import accuracy_name
from cleanlabel.flows.report.tables import grid_table, table
from cleanlabel.models.rounding import down_text, up_text


def certificate() -> Record:
    """The certificate of the embedded default that git holds."""
    return report("certificate.json")


def result() -> str:
    """What was made, and how accurate the vote is."""
    of = certificate()
    head = ["σ", "m", "α", accuracy_name(of), "abstentions"]
    cells = [f"{of['sigma']:g}", f"{of['m']}", up_text(of["level"]), down_text(of["vote_accuracy"])]
    return grid(head, [[*cells, f"{of['abstentions']} of {of['n_test']}"]], left=0)


def radii() -> str:
    """Certified accuracy at each radius, and what the radius buys, in the words of today."""
    of = certificate()
    pixels = math.prod(of["image_shape"])
    rows = [
        row | {"buys": what_it_buys(row["radius"], of["reported"]["epsilon_255"], pixels)} for row in of["at_radii"]
    ]
    return table(of | {"at_radii": rows}, None).partition("\n\n")[2]


def at_one() -> Record:
    """What is certified at R = 1."""
    found: Record = next(row for row in certificate()["at_radii"] if row["radius"] == 1)
    return found


def denoiser() -> str:
    """The first hundred models of each way."""
    record = read("ensemble")
    radii = ["0", "0.25", "0.5", "1"]
    rows = [[f"MLP, {way}", *(share(of["100"][r]) for r in radii)] for way, of in record["certified"].items()]
    return with_source(grid(["", *(f"R = {r}" for r in radii)], rows), "ensemble", record)


def drill() -> str:
    """The embedded default attacked, by sigma."""
    with (REPORTS / "redteam" / "drill" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = []
    for row in rows:
        value = {key: float(text) for key, text in row.items() if text}
        interval = f"{percent(value['success_low'])}–{percent(value['success_high'])}"
        lines.append(
            [
                f"{value['sigma']:g}",
                f"{percent(value['success'])} % [{interval}]",
                f"{percent(value['control'])} %",
                f"{100 * value['accuracy']:.1f} %",
            ]
        )
    return grid(["σ", "attack success [95 %]", "without poisons", "clean accuracy"], lines)


MADE = {
    "demo-result": result,
    "demo-radii": radii,
    "demo-images": lambda: grid_table(certificate()),
    "demo-denoiser": denoiser,
    "demo-drill": drill,
    "demo-R1-images": lambda: f"{at_one()['images_tolerated']}",
    "demo-R1-certified": lambda: share(at_one()["certified_accuracy"]),
    "demo-ordinary": lambda: share(report("train.json")["test_accuracy"]),
}
