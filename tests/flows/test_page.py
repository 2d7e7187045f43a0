"""The review page: what it says, that data stays text, and that a browser shows it on a desktop and a phone."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from imports import ROOT
from registered import M, Registered, copy_of, make_ensemble, the_version
from ruamel.yaml import YAML

from cleanlabel.flows.artifacts import CERTIFICATE_ARTIFACT, EXAMPLES, PAGE, REVIEWS
from cleanlabel.flows.certificate.checks import Check
from cleanlabel.flows.certificate.comparison import Change, answers_that_changed, changes, figures, previous_version
from cleanlabel.flows.certificate.figures import at_images, at_radii, l2_of, what_it_buys
from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.certificate.partitions import partition_record, partitions_of
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.certificate.reviews import MOST, without_reviews
from cleanlabel.flows.certify import write_page
from cleanlabel.flows.report.card import FOR_REVIEWS, card, not_covered, promise
from cleanlabel.flows.report.curve import curve_radii
from cleanlabel.flows.report.drawing import bins_of, thumbnail
from cleanlabel.flows.report.gallery import SHOWN
from cleanlabel.flows.report.notices import notices
from cleanlabel.flows.report.page import AT_ONCE, WEB, environments_of, render
from cleanlabel.flows.report.partitions import sentences
from cleanlabel.flows.store.client import TAG, log_files, read_file
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy, certify
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.partition import partition_radius
from cleanlabel.models.rounding import down_text, exact
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

HOSTILE = "<script>alert(1)</script>\"&'<img src=x onerror=alert(2)>"
PASSED = Verdict([Check("accuracy of the vote", passed=True, found="0.9000, at least 0.5 required")])


@dataclass(frozen=True)
class Parts:
    """What the page of a certified version is rendered from."""

    version: int
    run_id: str
    certified: Certified
    raw: ImageSet
    test: ImageSet
    sheet: bytes

    def page(self, **changes: object) -> str:
        """The page as `flows.certify` renders it, with these parts exchanged."""
        parts = {name: getattr(self, name) for name in ("certified", "version", "raw", "test", "sheet")}
        return render(**parts | {"verdict": PASSED} | changes)

    def with_certificate(self, **changes: object) -> Certified:
        """The version's own, with these fields of the certificate changed."""
        return replace(self.certified, certificate=self.certified.certificate | changes)


def parts_of(version: Registered) -> Parts:
    """Certify a version, and what that gives."""
    certified, raw, test = version.certify(), load(SETS["raw"]), load(SETS["test"])
    return Parts(version.number, version.version.run_id, certified, raw, test, EXAMPLES.read_bytes())


@pytest.fixture(scope="module")
def made(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Version 1, certified once for all tests that only look."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.mlflow/mlflow.db")
        return parts_of(the_version(copy_of(snapshot, root), 1))


def text_of(page: str) -> str:
    """What a person reads, in one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def synthetic(n: int, side: int) -> tuple[Certified, ImageSet]:
    """A certificate of a thousand models over `n` colour images of noise, which no PNG makes smaller."""
    generator = np.random.default_rng(0)
    m, truth = 1000, generator.integers(0, 10, n)
    sure = generator.beta(4, 1, n)[:, None]
    counts = generator.multinomial(m, sure * np.eye(10)[(truth + (generator.random(n) < 0.1)) % 10] + (1 - sure) / 10)
    label, radius = certify(counts, m, 1.0, 0.001)
    images = generator.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    test = ImageSet(images, truth, tuple(f"photos/{i:05d}.jpg" for i in range(n)), tuple("abcdefghij"))
    scored = label, radius, truth
    figures_of = {
        "at_radii": at_radii(*scored, [0.0, 0.5, 1.0], 8, side * side * 3),
        "at_images": at_images(*scored, [1, 10], [1, 2], side * side * 3),
        "n_test": n,
        "m": m,
        "abstentions": int((label == ABSTAIN).sum()),
    }
    return Certified(figures_of, counts, label, radius), test


def test_the_page_says_what_the_certificate_says(made):
    c, label = made.certified.certificate, made.certified.label
    said = text_of(made.page(environments={"a machine": M}))
    wrong = int(np.sum((label != made.test.labels) & (label != ABSTAIN)))
    for needed in (
        f"{SMOOTHED} version 1",
        "Gate: passed",
        "accuracy of the vote passed: 0.9000, at least 0.5 required",
        f"abstained {c['abstentions']} of 40",
        f"Covers {c['covers']}.",
        "A certificate is false with probability at most 0.001, for each test point on its own.",
        "images added, removed or relabelled",
        "how often an attack succeeds in practice",
        *(f"{exact(row['radius'])} {down_text(row['certified_accuracy'])} {row['buys']}" for row in c["at_radii"]),
        "images by 1/255 by 2/255 by 4/255 by 8/255 by 16/255",
        "150 grey images of 8×8 pixels in 10 classes",
        f"Certified, and wrong {wrong}",
        f"Abstained {c['abstentions']}",
        "No earlier version of smoothed-classifier has a certificate",
        "256 bits from the operating system",
        f"{M} draws: a machine",
        "python -m flows.audit --version 1 --replay 3",
        *(c[key] for key in c if key.endswith(("_digest", "_root", "_commitment")) and c[key]),
    ):
        assert needed in said, needed
    assert c["entropy"] not in said


def test_the_curve_can_be_read_without_a_mouse_at_every_radius(made):
    readings = json.loads(html.unescape(re.search(r'data-readings="([^"]*)"', made.page())[1]))
    radii = curve_radii(float(made.certified.radius.max()))
    shares = certified_accuracy(made.certified.label, made.certified.radius, made.test.labels, radii)
    found = [(reading["radius"], reading["accuracy"]) for reading in readings]
    assert found == [(down_text(r), down_text(share)) for r, share in zip(radii, shares, strict=True)]
    assert readings[0]["buys"] == "the answer is the smoothed classifier's own"
    assert readings[30]["buys"].endswith("none by 8/255")


@pytest.mark.parametrize("radius", [0.25, 0.2509803, 0.01, 1e-5])
def test_a_radius_in_words_is_never_rounded_up(radius):
    said = what_it_buys(radius, 8, 64)
    change = float(re.fullmatch(r"one image may change by (.+)/255, none by 8/255", said)[1])
    assert 0.9 * radius <= l2_of(change, 64) < radius


def test_the_histogram_holds_every_test_image_once(made):
    certified, test = made.certified, made.test
    for most in (1, 5, 10, 20):
        bins = bins_of(certified.counts, certified.label, test.labels, M, most)
        assert sum(one.total for one in bins) == 40
        assert sum(one.abstained for one in bins) == certified.certificate["abstentions"]
        assert sum(one.correct for one in bins) == int(np.sum(certified.label == test.labels))
        assert bins[-1].high == M
        assert all(lower.high + 1 == upper.low for lower, upper in pairwise(bins))
    nobody = bins_of(np.zeros((3, 4), dtype=int), np.full(3, ABSTAIN), np.arange(3), 100, 20)
    assert (nobody[0].low, nobody[0].abstained) == (0, 3)


def test_every_abstention_and_wrong_certificate_is_shown_with_its_image(made):
    test = made.test
    label, radius = test.labels.copy(), np.full(40, 0.5)
    wrong, silent = np.arange(0, 40, 8), np.arange(1, 40, 2)
    label[wrong], radius[wrong] = (test.labels[wrong] + 1) % 10, 0.3
    label[silent], radius[silent] = ABSTAIN, 0.0
    page = made.page(certified=replace(made.certified, label=label, radius=radius))
    for row in [*wrong, *silent]:
        assert f'src="{thumbnail(test.images[row])}" alt="{test.ids[row]}, {test.labels[row]}"' in page
    said = text_of(page)
    assert f"Certified, and wrong {len(wrong)} The models agree" in said
    assert f"Abstained {len(silent)} The models disagree" in said
    assert f"{len(silent) - AT_ONCE} more" in said


def test_the_same_version_gives_the_same_page_without_run_ids_paths_or_addresses(made):
    assert made.page() == (page := made.page())
    assert made.run_id not in page
    assert str(ROOT) not in page
    assert tempfile.gettempdir() not in page
    assert not re.search(r"https?:|(src|href)=\"(?!data:|#)|url\(|@import|\son\w+=", page)


def test_what_comes_from_data_is_text(made):
    test, ids = made.test, (HOSTILE, *made.test.ids[1:])
    hostile = replace(test, ids=ids, classes=(HOSTILE, *test.classes[1:]), labels=np.zeros(40, dtype=np.int64))
    label = np.where(np.arange(40) % 2, ABSTAIN, 0)
    label[0] = 3
    certified = replace(made.with_certificate(covers=HOSTILE), label=label)
    verdict = Verdict([Check(HOSTILE, passed=False, found=HOSTILE)])
    page = made.page(certified=certified, test=hostile, verdict=verdict, environments={HOSTILE: M})
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 40
    assert len(re.findall(r"<script\b", page)) == 1
    assert "<img src=x" not in page
    assert "onerror=" not in re.sub(r"&#34;&amp;&#39;&lt;img src=x onerror=alert\(2\)&gt;", "", page)


def test_a_gate_that_did_not_pass_or_was_not_asked_says_so(made):
    failed = Verdict([Check("entropy", passed=False, found="fixed, os required")])
    said = text_of(made.page(verdict=failed))
    assert "Gate: not passed" in said
    assert "entropy not passed: fixed, os required" in said
    assert "Gate: not checked yet" in text_of(made.page(verdict=None))


def test_what_might_be_overlooked_stands_on_the_page(made):
    test = made.test
    label = np.where(made.certified.label == test.labels, test.labels, ABSTAIN)
    (began,) = notices(replace(made.certified, label=label), test)
    assert began.startswith("The project's ledger of attempts began with this ensemble: attempts on this raw set that")
    assert notices(replace(made.with_certificate(ledger="kept"), label=label), test) == []
    changed = {"entropy_source": "fixed", "denoiser_state": "fixed-before", "attempts_before": 1}
    changed |= {"missing_draws": [3, 7]}
    odd = replace(made.with_certificate(**changed), label=label)
    found = notices(odd, test)
    assert len(found) == 5
    assert "Attempt 2 on this raw set, so it must meet the smaller level 0.001." in found
    shared = notices(made.with_certificate(attempts_before=1, ensembles=3), test)
    assert any("shares alpha with the others that were declared beforehand, 3 in all" in one for one in shared)
    assert f"2 of {M} models are missing. They count against every answer." in found
    said = text_of(made.page(certified=odd))
    assert all(notice in said for notice in found)


def test_words_about_an_origin_stand_on_page_and_card_and_are_neither_html_nor_markdown(made):
    words = f"{HOSTILE} [a](b) **bold**"
    stated = {"denoiser_state": "disjoint", "denoiser_digest": "0" * 64, "denoiser_origin": words}
    odd = made.with_certificate(**stated)
    page = made.page(certified=odd)
    assert f"stated, not checked: trained on other data than the raw set; from: {words}" in text_of(page)
    assert HOSTILE not in page
    described = card(odd.certificate, PASSED, 1, None)
    assert "stated, not checked" in described
    assert HOSTILE not in described
    assert "[a](b)" not in described
    assert "**bold**" not in described


def test_test_images_among_the_raw_ones_are_told(made):
    assert not any("test images are among" in notice for notice in filled(text_of(made.page()).split(".")))
    images = made.raw.images.copy()
    images[:3] = made.test.images[:3]
    odd = replace(made, raw=made.raw.with_images(images))
    assert "3 of 40 test images are also exact or near copies of raw images" in text_of(odd.page())


def test_a_version_is_compared_with_the_newest_earlier_one_that_has_a_certificate(version):
    second, first = parts_of(the_version(version.store, 2)), version.certify()
    certified, test = second.certified, second.test
    previous = previous_version(version.store, the_version(version.store, 2).version)
    assert previous_version(version.store, version.version) is None
    assert (previous.version, previous.certificate) == (1, first.certificate)
    said = text_of(second.page(previous=previous))
    assert "Compared with version 1" in said
    assert f"m {M} → {M + 1}" in said
    assert Change("m", str(M), str(M + 1)) in changes(first.certificate, certified.certificate)
    assert changes(first.certificate, first.certificate) == []
    had, has = first.label != ABSTAIN, certified.label != ABSTAIN
    answers = answers_that_changed(previous, certified, test)
    assert (answers["gained"], answers["lost"]) == (int(np.sum(~had & has)), int(np.sum(had & ~has)))
    assert sum(answers.values()) == int(np.sum(had | has))
    assert answers_that_changed(previous, certified, test.take(np.arange(39))) is None
    vote = figures(first.certificate, certified.certificate)[0]
    assert vote.before == down_text(first.certificate["vote_accuracy"])
    assert float(vote.difference) == pytest.approx(float(vote.after) - float(vote.before))


def test_an_earlier_version_that_cannot_be_read_is_passed_over(version):
    second, later = the_version(version.store, 2), make_ensemble(version.store, m=M + 2).version
    assert previous_version(version.store, later).version == 2
    damaged = {CERTIFICATE_ARTIFACT: b'{"plan_digest": 7'}
    log_files(version.store, second.version.run_id, damaged)
    assert previous_version(version.store, later).version == 1


def test_the_page_lies_beside_the_certificate_in_the_versions_run(version):
    certified = version.certify()
    raw, test = load(SETS["raw"]), load(SETS["test"])
    write_page.fn(version.store, version.version, certified, version.gate(certified), raw, test)
    directory = CERTIFICATE_ARTIFACT.rpartition("/")[0]
    attached = read_file(version.store, version.version.run_id, f"{directory}/index.html").decode()
    assert attached == without_reviews(PAGE.read_text())  # the attached one is sealed before anybody reviews it
    assert "Reviews come after this page is sealed" in text_of(attached)
    assert "given candidate" in text_of(PAGE.read_text())
    said = text_of(PAGE.read_text())
    made_with = environments_of(version.store, version.version.run_id)
    runs = version.store.client.search_runs(
        [version.store.experiment_id], f"tags.mlflow.parentRunId = '{version.version.run_id}'"
    )
    assert made_with == Counter(run.data.tags[f"{TAG}environment"] for run in runs)
    assert all(f"{count} draws: {name}" in said for name, count in made_with.items())


def test_dvc_knows_the_files_the_page_is_made_of():
    stage = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]["certify"]
    web = WEB.resolve().relative_to(ROOT)
    assert any(web.is_relative_to(dep) for dep in stage["deps"])
    outs = {next(iter(out)) for out in stage["outs"]}
    assert not {PAGE.as_posix(), REVIEWS.as_posix()} & outs  # a review changes them, and must not remake the stage


def test_ten_thousand_test_images_make_a_page_below_two_megabytes(made):
    certified, test = synthetic(10_000, 96)
    certificate = made.certified.certificate | certified.certificate
    page = made.page(certified=replace(certified, certificate=certificate), test=test)
    total = int(np.sum((certified.label != test.labels) & (certified.label != ABSTAIN)))
    assert total > SHOWN
    assert certificate["abstentions"] > SHOWN
    assert f"Another {total - SHOWN} are left out here" in page
    assert len(page.encode()) < 2_000_000


def test_page_and_card_speak_of_blocks_where_there_are_blocks(made: Parts):
    n = len(made.test)
    labels = np.where(np.arange(n)[:, None] % 8 < 6, made.test.labels[:, None], [[ABSTAIN, 1, 2, 3]])
    radii = np.where(labels == ABSTAIN, 0.0, 0.3)
    params = read_params("certify", CertifyParams, ROOT / "params.yaml")
    section = partition_record(labels, radii, made.test.labels, params, 64, 10, np.full(4, 37), stable_ids=True)
    label, radius = partition_radius(labels, radii, 10)
    counts = np.stack([(labels == c).sum(axis=1) for c in range(10)], axis=1)
    certificate = made.certified.certificate | {"partitions": section["k"], "blocks": section, "missing_draws": [3]}
    certified = replace(made.certified, certificate=certificate, counts=counts, label=label, radius=radius)
    said, m = text_of(made.page(certified=certified)), certificate["m"]
    for needed in (
        "4 blocks of 37 to 37 images",
        "What the blocks certify",
        f"of 4, each by the votes of its own {m} models",
        "The largest radius that 4 blocks of",
        "more than 2 images rewritten at will, added or removed",
        "images rewritten at will and by the largest change of every other image",
        f"1 of {m} draws (each has one model per block) are missing",
    ):
        assert needed in said, needed
    assert "all 4 blocks agree" in made.page(certified=certified)
    assert all(row["rewritten"] <= 2 for row in section["grid"])
    described = card(certificate, Verdict([]), 1, None)
    assert "Only the review page has room for this version's table of changed images" in described
    assert all(part in described for part in filled(sentences(section)))
    assert Change("blocks", "1", "4") in changes(made.certified.certificate, certificate)


def test_one_ensemble_says_nothing_of_blocks(made: Parts):
    plain: Certified = made.certified
    for absent in ({}, {"blocks": None}):
        certificate = {k: v for k, v in plain.certificate.items() if k != "blocks"} | absent
        assert partitions_of(certificate) is None
        assert "block" not in promise(certificate) + card(certificate, Verdict([]), 1, None)
        assert "images added, removed or relabelled" in not_covered(certificate)
        assert "block" not in text_of(made.page(certified=replace(plain, certificate=certificate)))
    assert all("block" not in notice for notice in filled(notices(plain, made.test)))


WIDTHS = (1280, 390)
PROBE = """
const found = [...document.querySelectorAll("iframe")].map((frame) => {
  const page = frame.contentDocument, root = page.documentElement, chart = page.querySelector(".chart");
  const read = () => page.querySelector("[data-field=radius]").textContent;
  const svg = [...chart.querySelectorAll("svg")].find((one) => one.clientWidth > 0);
  const box = svg.getBoundingClientRect();
  const point = (share) => {
    const place = { clientX: box.left + share * box.width, clientY: box.top + box.height / 2, bubbles: true };
    svg.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", place));
    return read();
  };
  const press = (key) => {
    chart.dispatchEvent(new frame.contentWindow.KeyboardEvent("keydown", { key }));
    return read();
  };
  return {
    width: frame.contentWindow.innerWidth,
    reaches: root.scrollWidth,
    images: page.images.length,
    missing: [...page.images].filter((image) => !image.naturalWidth).length,
    drawings: [...page.querySelectorAll(".chart svg")].filter((one) => one.clientWidth > 0).length,
    text: Math.min(...[...svg.querySelectorAll("text")].map((one) => one.getBoundingClientRect().height)),
    styled: frame.contentWindow.getComputedStyle(page.querySelector(".card")).borderTopStyle,
    read: [read(), point(0.0), point(0.5), point(1.0), press("Home"), press("ArrowRight"), press("End")],
  };
});
document.body.textContent = `FOUND ${JSON.stringify(found)} FOUND`;
"""


def look_at(page: str, folder: Path) -> tuple[list[dict], list[str]]:
    """What Chromium makes of the page at each width, and what it says on its console. In a frame of that width each."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to look at the page with")
    frames = "".join(
        f'<iframe width="{w}" height="900" frameborder="0" srcdoc="{html.escape(page)}"></iframe>' for w in WIDTHS
    )
    path = folder / "frames.html"
    path.write_text(f"<!doctype html><body>{frames}<script>onload = () => {{{PROBE}}}</script>")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,1000"]
    own = [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [chromium, *flags, *own, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(done.stdout.split("FOUND")[1])), console


def test_chromium_shows_all_of_it_on_a_desktop_and_a_phone(version, tmp_path):
    second = the_version(version.store, 2)
    parts, previous = parts_of(second), previous_version(version.store, second.version)
    weights = {"recipe": {"initial_weights": "w" * 200}, "initial_digest": "0" * 64, "initial_state": "disjoint"}
    weights["initial_origin"] = "w" * 200
    odd = parts.with_certificate(**weights)
    test = replace(parts.test, ids=("folder/" * 30 + HOSTILE, *parts.test.ids[1:]))
    found, console = look_at(parts.page(certified=odd, test=test, previous=previous), tmp_path)
    assert console == []
    for width, seen in zip(WIDTHS, found, strict=True):
        assert seen["width"] == width
        assert seen["reaches"] <= width
        assert seen["images"] > 1
        assert seen["missing"] == 0
        assert seen["drawings"] == 1
        assert seen["text"] >= 11
        assert seen["styled"] == "solid"
        first, left, middle, right, home, step, end = map(float, seen["read"])
        assert left == home == 0.0 < step < middle < right == end
        assert 0.0 <= first <= end


def test_chromium_runs_no_script_but_the_pages_own_and_asks_no_network(made, tmp_path):
    more = "<img src='https://example.invalid/x.png'><script>document.title = 'reached'</script></main>"
    _, console = look_at(made.page().replace("</main>", more), tmp_path)
    assert sum("Content Security Policy" in line for line in console) >= 2 * len(WIDTHS)


def test_a_card_fits_what_a_registry_keeps_and_says_what_it_leaves_out(made):
    full = card(made.certified.certificate, PASSED, 1, None)
    assert "The proof assumes" in full
    assert "Only the review page has room" not in full
    part = {"name": "twin", "digest": "0" * 64, "state": "disjoint", "origin": "w" * 200, "shared": None, "voids": None}
    several = [part | {"name": name} for name in ("denoiser", "initial weights", "twin", "settings")]
    for count, left_out in (
        (2, "table of changed images."),
        (4, "table of changed images, assumptions, recipe, notes on origins."),
    ):
        crowded = card(made.certified.certificate | {"admitted": several[:count]}, PASSED, 1, None)
        assert len(crowded) <= MOST - FOR_REVIEWS
        assert f"Only the review page has room for this version's {left_out}" in crowded
        assert "w" * 200 in crowded
        assert "**Not covered**" in crowded
