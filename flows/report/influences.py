"""The certificate of a bounded-influence head in words and tables."""

from typing import Any

from cleanlabel.flows.certificate.influences import WAYS
from cleanlabel.flows.report.tables import markdown, pivot
from cleanlabel.models.rounding import down_text, exact


def influence_in_words(section: dict[str, Any]) -> str:
    """What is summed, and the most that one image can change."""
    sizes = section["class_sizes"]
    least, most = min(sizes), max(sizes)
    span = "between -1 and 1" if section["sides"] == "two" else "between 0 and 1"
    images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return (
        f"A training image's influence on an answer lies {span}, whatever its pixels. The answer is the class "
        f"with the largest sum over its {images} images. There are no votes, and the number of draws does not limit "
        "the radius."
    )


def most_in_words(section: dict[str, Any]) -> str:
    """The most images that any answer is certified against."""
    most = section["most"]
    return (
        f"The most images that any answer here is certified against: {most['rewritten']} rewritten under their own "
        f"labels, {most['relabelled']} relabelled too, {most['inserted']} added or removed."
    )


def sentences(section: dict[str, Any]) -> list[str]:
    """The section for the model card: what is certified and against what, then the tables in Markdown."""
    parts = [
        f"{influence_in_words(section)} {most_in_words(section)}",
        "Certified accuracy by the number of training images changed at will, with all others untouched:",
        counts_table(section),
    ]
    if section["frontier"]:
        parts += [
            "Certified accuracy by the number of images rewritten at will under their own labels, if all others move "
            "within a joint l2 radius R:",
            frontier_table(section),
        ]
    return parts


def counts_table(section: dict[str, Any]) -> str:
    """One row per number of images, one column per way to change them, in Markdown."""
    return markdown(
        ["images", *WAYS.values()],
        [[f"{row['images']}", *(down_text(row[way]) for way in WAYS)] for row in section["counts"]],
    )


def frontier_table(section: dict[str, Any]) -> str:
    """One row per number of rewritten images, one column per radius, and the median radius, in Markdown."""
    radii = [cell["radius"] for cell in section["frontier"][0]["at_radii"]]
    return markdown(
        ["images rewritten", *(f"R = {exact(r)}" for r in radii), "median R"],
        [
            [
                f"{row['rewritten']}",
                *(down_text(cell["certified_accuracy"]) for cell in row["at_radii"]),
                median_of(row),
            ]
            for row in section["frontier"]
        ],
    )


def frontier_grid(section: dict[str, Any]) -> tuple[list[float], dict[float, list[float]]]:
    """The frontier as columns (radii) and rows (images rewritten)."""
    cells = [{"rewritten": row["rewritten"], **cell} for row in section["frontier"] for cell in row["at_radii"]]
    return pivot(cells, "rewritten", "radius")


def median_of(row: dict[str, Any]) -> str:
    """A frontier row's median radius, or that there is none."""
    return "none" if row["median_radius"] is None else down_text(row["median_radius"])
