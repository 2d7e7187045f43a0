"""The pieces of the benchmark of Witches' Brew against conv networks: resumed, shared, in order; its statistics."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_inputs import coloured
from scipy.stats import binomtest
from tiny import save_tiny_denoiser

from benchmarks.conv.__main__ import phase
from benchmarks.conv.denoised import clean_accuracy, kept_of
from benchmarks.conv.measures import coherence, high_share, kept
from benchmarks.conv.networks import Recipe, augmented, befriended, built, logits, padded, trained
from benchmarks.conv.poisons import craft, crafted
from benchmarks.conv.rivals import RIVALS, filtered, partitions
from benchmarks.conv.run import decided, opened, run
from benchmarks.conv.sets import Sets, aims, margins
from benchmarks.conv.setting import ENTROPY, QUICK, Cell
from benchmarks.conv.statistics import mcnemar, power, student, summary, whole_targets
from benchmarks.conv.units import Unit, Work
from cleanlabel.models.augmentation import mirrored, shifted
from cleanlabel.models.extractors import features
from cleanlabel.models.training import as_tensor
from cleanlabel.redteam.defences.friends import Friends
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize

RECIPE = Recipe(epochs=1, batch=32)
CELL = Cell(poisons=5, steps=2, networks=1, victim=RECIPE)
SIZE = replace(QUICK, seeds=2)
SIGMAS = SIZE.sigmas


def of_five(count: int, seed: int) -> ImageSet:
    """Images of five classes that any network tells apart."""
    images, labels = coloured(2 * count, (32, 32, 3), seed)
    rows = np.flatnonzero(labels < 5)
    return ImageSet(images[rows], labels[rows].astype(np.int64), tuple(map(str, rows)), tuple("abcde"))


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return load_denoiser(save_tiny_denoiser(tmp_path_factory.mktemp("denoiser") / "d", 32, 3))


@pytest.fixture
def work(denoiser, tmp_path) -> Work:
    return Work(Sets(of_five(120, 0), of_five(40, 1), denoiser, tmp_path / "scratch"), SIZE)


def evidence(work: Work, targets: int) -> list[Unit]:
    """The units of the evidence, on targets that need no network to be drawn."""
    cells = {"tuning": {}, "why": {"conv": CELL}}
    return list(phase("evidence", work, cells, ([], [(0, 3), (6, 4), (2, 1)]), targets))


def without_times(record: dict) -> dict:
    """A record's rows without what differs from run to run."""
    text = json.dumps(record, sort_keys=True)
    parsed = json.loads(text, object_hook=lambda row: {k: v for k, v in row.items() if k != "core_seconds"})
    return dict(parsed)


def test_a_run_that_was_killed_goes_on_from_its_record_alone_to_the_same_rows(work, tmp_path):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    run(evidence(work, 2), opened(whole, {"a": 1}), whole, "whole")

    def killed() -> dict:
        raise KeyboardInterrupt

    units = evidence(work, 2)
    units[6] = replace(units[6], make=killed)
    with pytest.raises(KeyboardInterrupt):
        run(units, opened(parts, {"a": 1}), parts, "first")
    assert sum(len(rows) for rows in json.loads(parts.read_text()).values() if isinstance(rows, list)) == 6
    shutil.rmtree(work.sets.scratch)
    run(evidence(work, 2), opened(parts, {"a": 1}), parts, "second")
    assert without_times(json.loads(parts.read_text())) == without_times(json.loads(whole.read_text()))


def test_a_record_of_other_settings_is_refused_and_the_difference_named(tmp_path):
    path = tmp_path / "conv.json"
    path.write_text(json.dumps({"settings": {"epsilon": 1, "seeds": 3}}))
    with pytest.raises(InputError, match=r"other settings \(epsilon\)"):
        opened(path, {"epsilon": 2, "seeds": 3})


def test_controls_are_trained_once_for_all_targets(work):
    units = evidence(work, 3)
    controls = [unit for unit in units if unit.table == "controls"]
    assert len(controls) == len(SIGMAS) * SIZE.seeds
    row = controls[-1].make()
    network = trained(work.sets.copy(SIGMAS[-1], 1), work.sets.clean.labels, 5, RECIPE, 1)
    assert row["margins"] == margins(network, work.sets.test, [(0, 3), (6, 4), (2, 1)])


def test_targets_come_one_after_the_other_with_every_sigma_and_the_seeds_inside(work):
    keys = [unit.key for unit in evidence(work, 2) if unit.table == "victims"]
    order = [(key["target"], key["sigma"], key["seed"]) for key in keys]
    assert order == sorted(order)
    assert len(order) == 2 * len(SIGMAS) * SIZE.seeds


def test_only_the_first_whole_targets_count():
    rows = [{"target": t, "sigma": s, "seed": 0} for t in (0, 1, 2) for s in (0.0, 0.1)]
    assert whole_targets(rows, (0.0, 0.1), 1) == 3
    assert whole_targets([row for row in rows if row != {"target": 1, "sigma": 0.1, "seed": 0}], (0.0, 0.1), 1) == 1
    assert summary([], [], (0.0,), 1) == []


def test_sanitizing_the_poisons_alone_equals_sanitizing_the_whole_poisoned_set(work):
    sets, made = work.sets, craft(work.sets, CELL, (0, 3))
    fast, after = sets.poisoned(made.images, made.rows, 0.1, 1)
    images = sets.clean.images.copy()
    images[made.rows] = made.images
    entropy = draw_entropy(ENTROPY).value
    slow = sanitize(sets.clean.with_images(images), 0.1, sets.denoiser, entropy, 1)
    assert (fast[made.rows] == after).all()
    # bfloat16 or another batch may round a value the other way
    assert np.abs(fast.astype(int) - slow).max() <= 8
    assert np.abs(fast.astype(int) - slow).mean() < 0.5


def test_poisons_are_crafted_again_to_the_same_pixels_and_stay_within_the_budget(work):
    first = crafted(work.sets, CELL, (0, 3))
    shutil.rmtree(work.sets.scratch)
    again = crafted(work.sets, CELL, (0, 3))
    assert (first.images == again.images).all()
    assert (first.rows == again.rows).all()
    assert (work.sets.clean.labels[first.rows] == 3).all()
    assert np.abs(first.delta(work.sets.clean.images[first.rows])).max() <= 16 / 255


def test_what_a_denoiser_is_worth_is_what_the_evidence_measures(work):
    sets, sigma = work.sets, SIGMAS[-1]
    units = evidence(work, 1)
    control = next(u for u in units if u.table == "controls" and u.key == {"cell": "conv", "sigma": sigma, "seed": 0})
    victim = next(u for u in units if u.table == "victims" and u.key["sigma"] == sigma and not u.key["seed"])
    assert clean_accuracy(sets, CELL, sigma, 0) == control.make()["accuracy"]
    assert kept_of(sets, crafted(sets, CELL, (0, 3)), sigma) == victim.make()["kept"]["all"]


def test_targets_are_drawn_once_and_all_networks_are_right_on_them(work):
    network = trained(work.sets.clean.images, work.sets.clean.labels, 5, Recipe(epochs=6, batch=32), 0)
    first = aims([network], work.sets.test, 3, 0)
    second = aims([network], work.sets.test, 3, 1, first)
    assert len({row for row, _ in first + second}) == 6
    answers, truth = logits(network, work.sets.test.images).argmax(axis=1), work.sets.test.labels
    assert all(answers[row] == truth[row] != label for row, label in first + second)
    with pytest.raises(InputError, match="too few for 900 targets"):
        aims([network], work.sets.test, 900, 0)


def test_a_cell_ends_once_it_is_decided():
    def record(*taken: bool) -> dict:
        return {"tuning": [{"cell": "A", "margin": 1.0 if one else -1.0} for one in taken]}

    assert not decided(record(*[True] * 5, *[False] * 4), "A")
    assert decided(record(*[True] * 6), "A")
    assert decided(record(*[False] * 5), "A")
    assert not decided(record(*[True] * 6), "B")
    done = record(*[True] * 6)
    run([Unit("tuning", {"cell": "A", "target": 7}, partial(pytest.fail, "decided"))], done, Path("/none"), "tuning")


def test_one_gather_augments_as_training_does():
    images = coloured(12, (32, 32, 3), 3)[0]
    rows = torch.tensor([3, 1, 7, 7, 0])
    fast = augmented(padded(images, 4), rows, RECIPE, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    slow = mirrored(shifted(as_tensor(images)[rows], 4, generator), True, generator)
    assert torch.allclose(fast, slow)
    assert fast.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, network="mlp", rate=1e-3, shift=0, flip=False)])
def test_a_victim_follows_from_its_seed(recipe):
    clean, test = of_five(120, 0), of_five(40, 1)
    first, again, other = (logits(trained(clean.images, clean.labels, 5, recipe, s), test.images) for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def rows_of(work: Work, path: Path) -> dict:
    """The rivals' rows on one target, from a record."""
    cells = {"tuning": {}, "why": {"conv": CELL}}
    record = opened(path, {})
    run(phase("rivals", work, cells, ([], [(0, 3), (6, 4)]), 1), record, path, "rivals")
    return record


def test_every_rival_has_a_control_and_a_row_on_each_target_and_filters_say_what_they_removed(work, tmp_path):
    found = rows_of(work, tmp_path / "conv.json")
    assert (
        [row["defence"] for row in found["rivals"]] == list(RIVALS) == [r["defence"] for r in found["rival_controls"]]
    )
    assert all(len(row["margins"]) == 2 for row in found["rival_controls"])
    for row in found["rivals"]:
        assert row["taken"] == (np.argmax(row["scores"]) == 3)
        assert ("removed" in row) == (row["defence"] in ("spectral", "deep-knn"))
        assert 0 <= row.get("poisons_removed", 0) <= min(CELL.poisons, row.get("removed", 0))
    assert rows_of(work, tmp_path / "conv.json") == json.loads(json.dumps(found))


def test_rivals_come_target_by_target_after_their_controls(work):
    cells = {"tuning": {}, "why": {"conv": CELL}}
    units = list(phase("rivals", work, cells, ([], [(0, 3), (6, 4)]), 2))
    order = [(unit.key.get("target", -1), unit.key["defence"]) for unit in units]
    assert order == [(target, name) for target in (-1, 0, 1) for name in RIVALS]


def test_noise_that_is_left_in_has_its_sigma_in_the_images_own_units(work):
    images = work.sets.clean.images
    left = work.sets.noised(work.sets.clean, 0.1, 0) - images
    assert left.std() == pytest.approx(25.5, rel=0.02)
    assert abs(left.mean()) < 0.5
    assert (work.sets.noised(work.sets.clean, 0.0, 0) == images).all()


def test_a_network_on_noise_alone_still_knows_plain_images(work):
    test, longer = work.sets.test, replace(RECIPE, epochs=40)  # plain images are learned in as many
    made = RIVALS["noise-only, σ = 0.1"](work.sets, work.sets.clean, longer)
    assert (made.scores(test.images).argmax(axis=1) == test.labels).mean() > 0.9


def test_two_filters_judge_the_features_of_one_network(work):
    judged = []
    for _ in range(2):
        filtered(work.sets, work.sets.clean, RECIPE, lambda found: judged.append(found) or np.arange(3))
    assert (judged[0] == judged[1]).all()
    assert len(list(work.sets.scratch.glob("features-*.npz"))) == 1
    network = trained(work.sets.clean.images, work.sets.clean.labels, 5, RECIPE, 0)
    assert np.allclose(judged[0], features(network, work.sets.clean.images).numpy())


def test_the_shares_of_votes_are_those_of_networks_on_disjoint_parts(work):
    scores = partitions(work.sets, work.sets.clean, RECIPE).scores(work.sets.test.images)
    assert scores.sum(axis=1) == pytest.approx(np.ones(len(work.sets.test)))
    assert set(scores.ravel()) <= {0, 0.5, 1}  # two parts


def test_friendly_noise_keeps_its_bound_and_the_network_as_it_was():
    images = of_five(120, 0).images
    model = built(RECIPE, 5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = befriended(model, images, Friends(steps=2), torch.Generator().manual_seed(0))
    assert 0 < np.abs(moved - images).max() <= 16.001
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_mcnemar_is_the_exact_test_of_the_pairs_that_differ():
    assert mcnemar([True] * 6 + [False] * 4, [False] * 10) == pytest.approx(2 / 2**6)
    assert mcnemar([True, False], [False, True]) == 1
    assert mcnemar([True, True], [True, True]) == 1


def test_the_power_that_is_stated():
    assert power(0.65, 0.09, 20) > 0.8
    assert power(0.65, 0.3, 20) < 0.8 < power(0.65, 0.3, 50)
    assert power(0.09, 0.03, 20) < 0.05


def test_the_summary_on_a_case_by_hand():
    rows = [
        {"target": t, "sigma": s, "seed": v, "margin": m, "accuracy": 0.5}
        for s, margin in ((0.0, [[1, 1], [2, -1], [-1, -1], [9, 9]]), (0.1, [[-1, -1], [-2, -2], [-3, -1]]))
        for t, of in enumerate(margin)
        for v, m in enumerate(of)
    ]
    controls = [{"sigma": s, "seed": v, "margins": [-4.0] * 50, "accuracy": 0.75} for s in (0.0, 0.1) for v in (0, 1)]
    plain, defended = summary(rows, controls, (0.0, 0.1), 2)
    assert (plain["targets"], plain["taken"], plain["victims"], plain["of_victims"]) == (
        3,
        1,
        3,
        6,
    )  # 1 of 2 is no half
    exact = binomtest(1, 3).proportion_ci(0.95, "exact")
    assert plain["interval"] == pytest.approx((exact.low, exact.high))
    assert plain["shifts"] == pytest.approx([5, 4.5, 3])
    assert (plain["shift"], plain["shift_low"], plain["shift_high"]) == pytest.approx(student([5, 4.5, 3]))
    assert (defended["taken"], defended["mcnemar"], defended["control"]) == (0, 1, 0)
    assert (defended["accuracy"], defended["clean_accuracy"], defended["clean_margin"]) == (0.5, 0.75, -4)


def test_coherence_spectrum_and_what_is_kept_on_analytic_cases():
    x = np.arange(32)
    slow, fast = (np.cos(2 * np.pi * f * x / 32)[None, :, None, None] * np.ones((1, 1, 32, 1)) for f in (2, 12))
    assert coherence(np.repeat(slow, 4, axis=0)) == pytest.approx(1)
    assert coherence(np.concatenate([slow, -slow, fast, -fast])) == pytest.approx(0, abs=1e-12)
    assert high_share(slow) == pytest.approx(0, abs=1e-12)
    assert high_share(slow + 2 * fast) == pytest.approx(4 / 5)
    assert high_share(np.random.default_rng(0).normal(size=(200, 32, 32, 3))) == pytest.approx(0.81, abs=0.01)
    left = kept(slow + fast, 0.75 * slow + 0.25 * fast)
    assert left == pytest.approx({"all": 0.5, "low": 0.75, "high": 0.25, "shared": 0.5})
