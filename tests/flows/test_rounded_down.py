"""Rule 16, place by place: no number that the program shows or writes claims more than what was certified.

The certificate is a real one. Its radii are exchanged for ones that every rounding to nearest would raise, and so are
the radii and thresholds that a person asks for.
"""

import csv
import html
import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from registered import copy_of, the_version

from cleanlabel.certifying import Certificate, certify_votes, reach
from cleanlabel.commands import as_csv, as_json, plan
from cleanlabel.flows.artifacts import CURVE, EXAMPLES, METRICS
from cleanlabel.flows.certificate.comparison import Previous, figures
from cleanlabel.flows.certificate.gate import judge
from cleanlabel.flows.certificate.influences import influence_record
from cleanlabel.flows.certificate.partitions import partition_record
from cleanlabel.flows.certificate.record import Certified, compute, metrics_of, tags_of
from cleanlabel.flows.certify import write_reports
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.ensemble.entropy import reveal_entropy
from cleanlabel.flows.report import influences, partitions
from cleanlabel.flows.report.card import card, promise
from cleanlabel.flows.report.page import render
from cleanlabel.models.answers import largest_radius
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.influenced import influenced
from cleanlabel.models.params import CertifyParams, GateParams
from cleanlabel.models.partition import frontier
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import POINTS, SETS

AWKWARD = np.array([0.119609, 0.2499999, 1.9999996, 0.1999999999])
ASKED = [0.0, 0.1196089, 0.2499999, 1.9999996]
"""Radii to report; the last three would be shown larger with six digits or fewer."""


class Version:
    """A registered version whose certificate has awkward radii and asks for awkward ones."""

    def __init__(self, root: Path, snapshot: Path) -> None:
        self.one = the_version(copy_of(snapshot, root), 1)
        real = self.one.certify(radii=ASKED)
        self.raw, self.test = load(SETS["raw"]), load(SETS["test"])
        radius = np.where(real.label == ABSTAIN, 0.0, np.resize(AWKWARD, len(real.label)))
        store, ensemble = self.one.store, self.one.ensemble
        self.largest = largest_radius(ensemble.plan, ensemble.attempts_before, ensemble.m)
        self.entropy = reveal_entropy(store, ensemble)
        self.votes = assemble(store, ensemble).votes
        self.certified = replace(real, radius=radius)
        write_reports.fn(self.certified, self.raw, self.test, self.entropy)

    def share(self, radius: float, certified: Certified | None = None) -> float:
        of = certified or self.certified
        return float(certified_accuracy(of.label, of.radius, self.test.labels, radius)[0])


@pytest.fixture(scope="module")
def made(snapshot, tmp_path_factory):
    root = tmp_path_factory.mktemp("awkward")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.mlflow/mlflow.db")
        yield Version(root, snapshot)


def test_points_csv_and_the_curve(made):
    rows = list(csv.DictReader(POINTS.open()))
    for row, radius in zip(rows, made.certified.radius, strict=True):
        assert radius - 1e-6 < float(row["radius"]) <= radius
    assert sum(float(row["radius"]) < radius for row, radius in zip(rows, made.certified.radius, strict=True)) > 5
    for row in filled(csv.DictReader(CURVE.open())):
        assert float(row["certified_accuracy"]) <= made.share(float(row["radius"]))


def test_certificate_json_metrics_and_tags(made):
    params = CertifyParams.model_validate(made.certified.certificate["reported"] | {"radii": ASKED})
    shape = made.raw.image_shape
    found = compute(made.one.ensemble, made.votes, [], made.entropy, made.test, shape, params)
    c = found.certificate
    assert c["largest_certifiable_radius"] <= made.largest < c["largest_certifiable_radius"] + 1e-6
    held = [made.share(row["radius"], found) for row in c["at_radii"]]
    assert all(row["certified_accuracy"] <= share for row, share in zip(c["at_radii"], held, strict=True))
    assert [row["radius"] for row in c["at_radii"]] == ASKED
    assert c["vote_accuracy"] <= np.mean(found.counts.argmax(axis=1) == made.test.labels)
    names = [name for name in metrics_of(c) if name.startswith("certified_accuracy_r")]
    asked = [float(name.removeprefix("certified_accuracy_r").replace("_", ".")) for name in names]
    assert asked == ASKED  # no two radii share a name, none is named as a larger one
    assert metrics_of(c)["abstention_rate"] >= c["abstentions"] / c["n_test"]
    tags = tags_of(c | {"level": 0.001 / 3, "n_test": 397, "abstentions": 33})
    assert float(tags["level"]) >= 0.001 / 3
    assert float(tags["abstention_rate"]) >= 33 / 397
    assert json.loads(METRICS.read_text()) == metrics_of(made.certified.certificate)


def certificate_of(made: Version) -> dict:
    """The certificate with shares, limits and levels that rounding to nearest would improve."""
    rows = [row | {"certified_accuracy": 0.8896} for row in made.certified.certificate["at_radii"]]
    return made.certified.certificate | {
        "at_radii": rows,
        "largest_certifiable_radius": 0.119609,
        "level": 0.001 / 3,
        "noise_distance": 1.26e-7,
        "at_images": [row | {"certified_accuracy": 0.7899} for row in made.certified.certificate["at_images"]],
        "attempt": 1,
    }


def test_page_and_card(made):
    c = certificate_of(made)
    wrong = replace(made.certified, certificate=c, label=(made.certified.label + 1) % 10)
    before = Previous(1, c | {"largest_certifiable_radius": 0.2199}, np.array(ASKED), np.full(4, 0.7777), {})
    thresholds = GateParams.model_validate(
        {"accuracy": 0.1, "certified_accuracy": [{"radius": 0.2499999, "at_least": 0.0099999}], "replay": 0}
        | {"entropy": "os", "approval": "review"}
    )
    verdict = judge(wrong, made.test.labels, [], thresholds)
    page = render(wrong, verdict, 2, made.raw, made.test, EXAMPLES.read_bytes(), before)
    said = html.unescape(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2].partition("<script>")[0]))
    described = card(c, verdict, 2, 0.1)
    for text in (said, described):
        assert "R = 0.2499999" in text
        for raised in ("0.890", "0.790", "0.120", "0.000333", "R = 0.25 ", "R = 2 ", "0.01 required"):
            assert raised not in text, raised
        assert "0.889" in text
        assert "0.789" in text
        assert "0.119, rounded down" in text
        assert "at most 0.000334" in text
        assert "1.3e-07 of ideal" in text
        assert "at least 0.0099999 required" in text
    shown = [float(r) for r in re.findall(r"to R = ([\d.]+)", said)]
    assert shown
    truly = sorted(wrong.radius[(wrong.label != made.test.labels) & (wrong.label != ABSTAIN)])[::-1]
    assert all(r <= true for r, true in zip(shown, truly, strict=False))
    readings = json.loads(html.unescape(re.search(r'data-readings="([^"]*)"', page)[1]))
    for reading in filled(readings):
        assert float(reading["accuracy"]) <= made.share(float(reading["radius"]), wrong)
        assert reading["before"] in ("0.777", "0.000")
    assert "0.119" in promise(c)


def test_an_accuracy_just_below_the_gates_does_not_pass(made):
    """A share that four digits to nearest would carry over the threshold, in the certificate and in the sentence."""
    params = CertifyParams.model_validate(made.certified.certificate["reported"])
    ensemble, shape = made.one.ensemble, made.raw.image_shape
    correct = made.certified.counts.argmax(axis=1) == made.test.labels
    rows = [*np.flatnonzero(correct)[:20].tolist(), int(np.flatnonzero(~correct)[0])]
    test = made.test.take(np.array(rows))
    votes = {draw: row[rows] for draw, row in made.votes.items()}
    plan = replace(ensemble.plan, n_test=len(rows), test_digest=test.digest)
    few = compute(replace(ensemble, plan=plan), votes, [], made.entropy, test, shape, params)
    assert few.certificate["vote_accuracy"] == 0.9523
    asked = {"accuracy": 0.95239, "certified_accuracy": [], "entropy": "os", "replay": 0, "approval": "review"}
    verdict = judge(few, test.labels, [], GateParams.model_validate(asked))
    assert 20 / 21 < 0.95239 < round(20 / 21, 4)
    assert not verdict.checks[0].passed
    assert verdict.checks[0].found == "0.9523, at least 0.95239 required"


def test_a_comparison_of_versions(made):
    c = certificate_of(made)
    found = {change.name: change for change in figures(c | {"largest_certifiable_radius": 0.2199}, c)}
    limit = found["largest radius that can be certified, rounded down"]
    assert (limit.before, limit.after, limit.difference) == ("0.219", "0.119", "-0.100")
    row = found["certified accuracy at R = 1.9999996"]
    assert (row.after, row.difference) == ("0.889", "+0.000")
    share = c["abstentions"] / c["n_test"]
    assert float(found["abstained"].after) >= share


def test_frontiers_medians_and_counts_of_blocks_and_sums(made):
    asked = CertifyParams.model_validate(made.certified.certificate["reported"])
    n, truth = len(made.test), made.test.labels
    labels, radii = np.repeat(truth[:, None], 3, axis=1), np.resize(AWKWARD / np.sqrt(2), (n, 3))
    section = partition_record(labels, radii, truth, asked, 64, 10, np.full(3, 37), stable_ids=True)
    for row in section["frontier"]:
        assert float(partitions.median_of(row)) <= row["median_radius"]
    label, radius = frontier(labels, radii, 10, range(2))
    true = float(np.median(radius[0][label[0] != ABSTAIN]))
    assert section["frontier"][0]["median_radius"] <= true < section["frontier"][0]["median_radius"] + 1e-6
    assert "R = 1.9999996" in partitions.frontier_table(section)

    sizes = (60, 50, 40)
    sums = np.random.default_rng(0).integers(0, STEPS * np.array(sizes), (31, 3))
    found = influenced(dict.fromkeys(range(8), sums), 8, 31, sizes, "one", 0.5, 0.001)
    record = influence_record(found, found.vote, asked)
    true = float(np.median(found.radius()[found.label != ABSTAIN]))
    assert record["frontier"][0]["median_radius"] <= true < record["frontier"][0]["median_radius"] + 1e-6
    assert float(influences.median_of(record["frontier"][0])) <= true
    for row in record["counts"]:
        assert row["rewritten"] <= np.mean((found.label == found.vote) & (found.counts("rewritten") >= row["images"]))


def test_a_summary_and_the_files_of_certify_votes():
    counts = np.tile([[20, 0]], (4, 1))
    label = np.zeros(4, dtype=np.int64)
    found = Certificate(label, AWKWARD, label, counts, 20, 0.5, 0.001 / 3, "binary", 0.0, 64, "os")
    said = found.summary()
    assert "largest radius 1.999" in said
    assert "level 0.000334" in said
    for radius, share in filled(re.findall(r"^radius ([\d.]+): points certified ([\d.]+)%", said, re.MULTILINE)):
        assert float(share) / 100 <= np.mean(float(radius) < AWKWARD)
    thirds = replace(found, radius=np.array([1.0, 1.0, 0.0]), label=label[:3], vote=label[:3], counts=counts[:3])
    assert "points certified 66.6%" in thirds.summary()
    assert [float(row["radius"]) for row in csv.DictReader(io.StringIO(as_csv(found, None)))] == AWKWARD.tolist()
    assert [point["radius"] for point in json.loads(as_json(found, None))["points"]] == AWKWARD.tolist()


@pytest.mark.parametrize("sigma", [0.25, 0.37, 0.5])
def test_a_plan(sigma):
    models = [11, 12, 20, 33, 57, 101, 250]
    with redirect_stdout(io.StringIO()) as stream:
        plan(["--sigma", str(sigma), "--models", *map(str, models), "--radius", "0.1196089", "--ensembles", "3"])
    said = stream.getvalue()
    found = re.findall(r"^ *(\d+) models: radius ([\d.]+) if all agree, ([\d.]+) if (\d+) do", said, re.MULTILINE)
    assert {int(m) for m, *_ in found} >= set(models)
    for m, radius, part, most in found:
        true = reach(int(m), sigma, 0.001 / 3)
        assert true - 0.001 < float(radius) <= true
        votes = np.zeros((int(m), 1), dtype=np.int64)
        votes[int(most) :] = 1
        assert float(part) <= certify_votes(votes, sigma, (1, 1, 1), ensembles=3).radius[0] + 1e-9
    assert "radius 0.1196089: at least" in said
    assert "level 0.000334 per" in said
    least = int(re.search(r"at least (\d+) models", said)[1])
    assert reach(least, sigma, 0.001 / 3) > 0.1196089 >= reach(least - 1, sigma, 0.001 / 3)
