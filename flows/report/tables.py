"""A certificate's tables in Markdown."""

from typing import Any

from cleanlabel.flows.certificate.wording import accuracy_name
from cleanlabel.models.rounding import down_text, exact, up_text


def table(certificate: dict[str, Any], seconds_a_model: float | None) -> str:
    """The result in Markdown, for the terminal, Prefect's page and the README."""
    spent = f"{seconds_a_model:.2f}" if seconds_a_model is not None else "not recorded"
    k = certificate.get("partitions", 1)
    models = f"{certificate['m']}" + (f" in each of {k} blocks" if k > 1 else "")
    lines = [
        f"| σ | m | α | {accuracy_name(certificate)} | abstentions | seconds per model |",
        "|---|---|---|---|---|---|",
        f"| {certificate['sigma']:g} | {models} | {up_text(certificate['level'])} "
        f"| {down_text(certificate['vote_accuracy'])} "
        f"| {certificate['abstentions']} of {certificate['n_test']} | {spent} |",
    ]
    if certificate["at_radii"]:
        header = ["joint radius R", "certified accuracy", "what R buys"]
        rows = [
            [exact(row["radius"]), down_text(row["certified_accuracy"]), row["buys"]] for row in certificate["at_radii"]
        ]
        lines += ["", markdown(header, rows)]
    if "influence" in certificate:
        counts = certificate["influence"]["counts"]
        rows = [[f"{row['images']}", down_text(row["rewritten"]), down_text(row["relabelled"])] for row in counts]
        header = ["images changed at will", "certified, labels kept", "certified, relabelled too"]
        lines += ["", markdown(header, rows)]
    return "\n".join(lines)


def grid_table(certificate: dict[str, Any]) -> str:
    """Certified accuracy by number of changed images and change of each, in Markdown."""
    return _pivot(certificate["at_images"], "images", "images changed", "epsilon_255", "by {}/255")


def trigger_table(certificate: dict[str, Any]) -> str:
    """Certified accuracy by change of the test input and joint radius of the training set, in Markdown."""
    rows = certificate["at_triggers"]
    return _pivot(rows, "trigger_l2", "l2 change of the test input", "radius", "with R = {}")


def pivot(rows: list[dict[str, Any]], down: str, across: str) -> tuple[list[float], dict[float, list[float]]]:
    """Certified accuracy as a table: its columns, and for each value of `down` one share per column."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    share = {(row[down], row[across]): row["certified_accuracy"] for row in rows}
    names = dict.fromkeys(row[down] for row in rows)
    return columns, {name: [share[name, column] for column in columns] for name in names}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _pivot(rows: list[dict[str, Any]], down: str, corner: str, across: str, heading: str) -> str:
    columns, lines_of = pivot(rows, down, across)
    header = [corner, *(heading.format(exact(column)) for column in columns)]
    return markdown(header, [[exact(name), *map(down_text, shares)] for name, shares in lines_of.items()])
