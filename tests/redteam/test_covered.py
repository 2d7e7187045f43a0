"""The certificate beside the attack: what the clean set's ensemble certifies, and whether it covers the poisons."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled
from redteam_sets import RECIPE, digit_sets

from cleanlabel.models.extractors import features
from cleanlabel.models.influenced import influenced
from cleanlabel.models.sums import STEPS
from cleanlabel.models.training import architecture_of, train
from cleanlabel.models.weights import save_weights
from cleanlabel.redteam.comparison.run import comparison
from cleanlabel.redteam.drill.covered import changes, coverage, ensemble_of, within
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.report import read_summaries
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.redteam.threat.attacker import Target
from cleanlabel.redteam.threat.setups import Published, trusted_beside
from cleanlabel.redteam.threat.victims import answers_to_features
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, save_npz

HEAD = {"head": "bounded-influence", "architecture": "mlp", "width": 64, "epochs": 8}
FEW = {
    "attack": "bullseye",
    "settings": {"steps": "40"},
    "targets": 4,
    "sigma": [0.0, 0.25],
    "poisons": 6,
    "epsilon_255": 128.0,
    "entropy": "fixed:7",
    "draws": 5,
    "recipe": HEAD,
}


def drill(**others) -> Drill:
    return prepared(checked(FEW | others))


def save_extractor(path: Path) -> None:
    """A file with weights that were trained on the trusted digits."""
    trusted = digit_sets()["trusted"]
    model = train(trusted.images, trusted.labels, 10, RECIPE, 0)
    save_weights(model, path, architecture_of(RECIPE, trusted.image_shape, 10))


def two_classes(per_image: float, sigma: float, m: int = 20):
    """The certificate of one test point: class 0's 400 images weigh `per_image` each, class 1's nothing."""
    sums = np.array([[round(400 * per_image * STEPS), 0]])
    return influenced(dict.fromkeys(range(m), sums), m, 1, (400, 400), "one", sigma, 0.001)


def test_changes_are_measured_on_the_pixels_that_stand_in_the_poisoned_set():
    clean = digit_sets()["raw"]
    images = clean.images.copy()
    images[3, 0, 0] = 255 - images[3, 0, 0]
    images[7, 0, :2] = 51
    norms = changes(clean, clean.with_images(images))
    moved = [abs(int(images[3, 0, 0, 0]) - int(clean.images[3, 0, 0, 0]))]
    two = np.linalg.norm(images[7].astype(float) - clean.images[7])
    assert norms == pytest.approx(sorted([moved[0] / 255, two / 255], reverse=True))


def test_another_label_is_no_rewritten_image():
    clean = digit_sets()["raw"]
    other = ImageSet(clean.images, np.roll(clean.labels, 1), clean.ids, clean.classes)
    with pytest.raises(ValueError, match="only pixels may differ"):
        changes(clean, other)


def test_few_large_changes_are_covered_by_their_number_and_many_small_ones_by_the_radius():
    certificate = two_classes(0.5, 0.25)
    count, radius = int(certificate.counts("rewritten")[0]), float(certificate.radius()[0])
    assert 20 < count < 200
    assert radius > 0.5
    few, many = np.full(count, 50.0), np.full(10 * count, 0.99 * radius / np.sqrt(10 * count))
    assert [bool(part[0]) for part in within(certificate, few)] == [False, True, True]
    assert [bool(part[0]) for part in within(certificate, many)] == [True, False, True]
    assert not within(certificate, np.full(count + 1, 50.0))[2].any()
    assert not within(certificate, many * 1.02)[2].any()


def test_some_rewritten_and_the_rest_moved_is_covered_where_neither_bound_alone_is_enough():
    certificate = two_classes(0.5, 0.25)
    count = int(certificate.counts("rewritten")[0])
    half = count // 2
    left = float(certificate.radius(rewritten=half)[0])
    rest = np.full(10 * count, 0.99 * left / np.sqrt(10 * count))
    assert [bool(part[0]) for part in within(certificate, np.concatenate([np.full(half, 50.0), rest]))] == [
        False,
        False,
        True,
    ]
    assert not within(certificate, np.concatenate([np.full(half + 1, 50.0), rest * 1.02]))[2].any()


def test_where_nothing_is_certified_not_even_no_change_is_covered():
    assert not any(part.any() for part in filled(within(two_classes(0.0, 0.25), np.empty(0))))


def test_an_attack_on_a_covered_target_never_changes_the_ensembles_answer(project):
    one = drill()
    setups = one.chosen()
    found = [coverage(one, i, setup, sigma) for i, setup in enumerate(setups) for sigma in (0.0, 0.25)]
    covered = [entry for entry in found if entry.covered]
    assert {entry.sigma for entry in covered} == {0.0, 0.25}
    assert any(not entry.covered for entry in found)
    assert all(entry.right and not entry.success for entry in covered)


def test_the_strongest_rewriting_wins_only_beyond_what_is_certified(project):
    """Images of the intended class become copies of the target, in turn with images of its own class that become ones
    of the intended: no rewriting tells the sums more of what is not so."""
    one = drill(targets=1, sigma=[0.0])
    [setup] = one.chosen()
    goal = setup.goal
    assert isinstance(goal, Target)
    phi = features(one.victim.extractor, goal.image[None])

    def rewritten(count: int) -> int:
        images = setup.clean.images.copy()
        own, wanted = (np.flatnonzero(setup.clean.labels == label) for label in (goal.label, goal.intended))
        images[wanted[: (count + 1) // 2]] = goal.image
        images[own[: count // 2]] = setup.clean.images[wanted[-1]]
        network = one.summed(setup.clean.with_images(images), 0.0, 0)
        return int(answers_to_features(network, phi)[0])

    entry = coverage(one, 0, setup, 0.0)
    assert entry.rewritten >= 1
    assert rewritten(int(entry.rewritten)) == goal.label
    assert rewritten(len(setup.clean)) == goal.intended


def test_the_answer_is_the_class_with_the_largest_sum_of_influences(project):
    one = drill(targets=1)
    [setup] = one.chosen()
    network = one.summed(setup.clean, 0.25, 3)
    directions = one.instrument(0.25).directions(one.test_features)
    copy = one.sanitized(setup.clean, 0.25, 3)
    found = one.instrument(0.25).influences(features(one.victim.extractor, copy).half(), directions)
    sums = np.stack([found[setup.clean.labels == label].sum(axis=0) for label in range(10)], axis=1)
    top = np.sort(sums, axis=1)
    clear = top[:, -1] - top[:, -2] > 0.01 * STEPS  # denoised in batches of other sizes, the last bits may differ
    assert clear.mean() > 0.9
    assert (answers_to_features(network, one.test_features) == sums.argmax(axis=1))[clear].all()


def test_one_instrument_a_sigma_made_of_trusted_images_and_none_of_the_raw_ones(project):
    one, other = drill(), drill(attack="frogs", settings={"steps": "3"})
    assert one.instrument(0.0).digest != one.instrument(0.25).digest
    assert other.instrument(0.25).digest == one.instrument(0.25).digest
    assert len(list(Path("data/redteam/instruments").rglob("*.safetensors"))) == 2
    assert not set(one.trusted.ids) & set(next(one.candidates).clean.ids)


def test_trusted_images_beside_the_benchmarks_setups_are_in_no_raw_set():
    train = digit_sets()["raw"]
    bases = tuple(int(row) for row in np.flatnonzero(train.labels == 1)[-5:])
    trusted = trusted_beside([Published(0, 0, 1, bases)], train, 100, 50)
    assert len(trusted) == 50
    first = {train.ids[row] for label in range(10) for row in np.flatnonzero(train.labels == label)[:10]}
    assert not set(trusted.ids) & (first | {train.ids[row] for row in bases})
    assert trusted_beside([Published(0, 0, 1, bases)], train, 0, 50) is None


def test_shared_images_are_sanitized_once_and_kept(project):
    one = drill()
    raw, rows = digit_sets()["raw"], np.arange(40)
    first = one.copies.of(raw.take(rows), 0.25, 2)
    changed = raw.images[rows].copy()
    changed[0] = 255 - changed[0]
    poisoned = one.copies.of(raw.take(rows).with_images(changed), 0.25, 2)
    assert torch.equal(first[1:], poisoned[1:])
    assert not torch.equal(first[0], poisoned[0])
    again = drill(attack="frogs", settings={"steps": "3"}).copies  # another drill on the same noise
    assert torch.equal(again.of(raw.take(rows), 0.25, 2), first)
    [kept] = Path("data/redteam").glob("copies-*/sigma-0.25/*.npz")
    with np.load(kept, allow_pickle=False) as content:
        assert content["rows"].shape[0] == 41


def test_a_damaged_file_of_copies_is_named(project):
    one, raw = drill(), digit_sets()["raw"].take(np.arange(5))
    one.copies.of(raw, 0.25, 0)
    [kept] = Path("data/redteam").glob("copies-*/sigma-0.25/*.npz")
    kept.write_bytes(b"no array")
    with pytest.raises(InputError, match=r"draw-0000000.npz holds no features of sanitized images .* delete it"):
        drill().copies.of(raw, 0.25, 0)


def test_the_report_has_a_line_a_target_and_a_line_a_sigma(project):
    found = run_drill(drill(targets=2), Path("out"))
    assert found.name == "bullseye-transfer-pipeline-bounded-influence"
    content = json.loads(Path(f"out/{found.name}.json").read_text())
    assert [(entry["setup"], entry["sigma"]) for entry in content["coverage"]] == [
        (cell.setup, cell.sigma) for cell in found.cells
    ]
    for row in found.rows:
        beside = [entry for entry in content["coverage"] if entry["sigma"] == row.sigma]
        assert row.covered == np.mean([entry["covered"] for entry in beside])
        assert row.smoothed_success == np.mean([entry["success"] for entry in beside])
        assert row.models == (5 if row.sigma else 1)
        assert row.radius <= row.radius_limit
    table = Path("out/table.md").read_text()
    assert "transfer, bounded-influence" in table
    assert "This drill was given its noise" in table
    assert all(f"| {entry['setup']} | {entry['sigma']:g} | 6 |" in table for entry in content["coverage"])
    lines = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert [float(line["covered"]) for line in lines] == pytest.approx([row.covered for row in found.rows])
    kept = {path: path.stat().st_mtime_ns for path in Path("data/redteam").rglob("*") if path.is_file()}
    run_drill(drill(targets=2), Path("out"))
    assert all(path.stat().st_mtime_ns == time for path, time in filled(kept.items()))


def test_drills_of_other_heads_stand_in_the_same_table_as_before(project):
    ordinary = FEW | {"targets": 1, "sigma": [0.0], "recipe": HEAD | {"head": "logistic"}}
    run_drill(prepared(checked(ordinary)), Path("out"))
    run_drill(drill(targets=1, sigma=[0.0]), Path("out"))
    assert sorted("coverage" in content for content in read_summaries(Path("out"))) == [False, True]
    assert "Two claims." in Path("out/table.md").read_text()


def test_the_cosine_form_needs_no_trusted_images_and_noise_only_no_denoiser(project):
    Path("data/trusted.npz").unlink()
    save_extractor(Path("own.safetensors"))
    recipe = HEAD | {"influence_form": "cosine", "influence_sides": "two"}
    found = run_drill(drill(targets=1, recipe=recipe, extractor="own.safetensors", denoise=False), Path("out"))
    assert found.name.endswith("bounded-influence-noise-only")
    assert "The noise is left in (no denoiser)." in Path("out/table.md").read_text()
    assert [entry["draws"] for entry in found.summary["coverage"]] == [1, 5]


def test_a_backdoors_certificates_are_shares_of_its_test_images(project):
    found = run_drill(
        drill(attack="hidden-trigger", settings={"steps": "5"}, targets=1, trigger_size=2, sigma=[0.0]), Path("out")
    )
    [entry] = found.summary["coverage"]
    assert 0 < entry["right"] < 1
    assert entry["covered"] <= entry["right"]
    assert 0 <= entry["success"] < 1


def test_the_bounds_are_those_of_the_whole_plan_and_shrink_with_fewer_draws(project):
    one = drill(targets=1)
    [setup] = one.chosen()
    phi = features(one.victim.extractor, setup.goal.image[None])
    sums = {d: one.summed(setup.clean, 0.25, d).head(phi).numpy().astype(np.int64) for d in range(2)}
    few, many = (
        ensemble_of(one, setup.clean, sums | dict.fromkeys(range(2, m), sums[0]), 0.25, m, 0.001) for m in (2, 50)
    )
    assert few.margin[0].min() < many.margin[0].min()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenario": "fine-tune"}, "stands on a frozen extractor, and scenario fine-tune trains it on"),
        ({"ensemble": 10}, "ensemble=10 counts votes, and a bounded-influence head gives sums; set draws instead"),
        ({"adaptive": True, "denoise": False}, "crafts through the denoiser; leave --noise-only out"),
        ({"draws": 0}, "draws=0: input should be greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(project, change, words):
    with pytest.raises(InputError, match=words):
        drill(**change)


def test_the_instrumental_form_without_trusted_images_is_refused_with_a_way_out(project):
    save_extractor(Path("own.safetensors"))
    Path("data/trusted.npz").unlink()
    with pytest.raises(InputError, match="this drill has 0; give data/trusted.npz, hold some out .* influence_form"):
        drill(extractor="own.safetensors")


def test_raw_images_among_the_trusted_ones_are_named(project):
    sets = digit_sets()
    both = np.concatenate([sets["trusted"].images[:200], sets["raw"].images[:2]])
    labels = np.concatenate([sets["trusted"].labels[:200], sets["raw"].labels[:2]])
    ids = (*sets["trusted"].ids[:200], *sets["raw"].ids[:2])
    save_npz(ImageSet(both, labels, ids, sets["raw"].classes), Path("data/trusted.npz"))
    with pytest.raises(
        InputError, match="raw images are among those that the head is fitted to .* remove them from one side"
    ):
        drill()


def test_a_comparison_of_defences_refuses_the_head(project):
    with pytest.raises(InputError, match="a comparison trains linear heads"):
        comparison(drill(), [], Path("out"))
