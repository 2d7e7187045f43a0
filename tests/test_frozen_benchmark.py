"""The pieces of the benchmark of attacks on a frozen extractor: what is shared, what is filtered, what is declared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark_inputs import coloured
from tiny import save_tiny_denoiser

from benchmarks.conv.networks import Recipe, trained
from benchmarks.conv.setting import ENTROPY
from benchmarks.frozen.sets import Sets, first_of_each
from benchmarks.frozen.setting import BEYOND, BLACK_BOX, BULLSEYE, QUICK, SUMS, small
from benchmarks.frozen.units import Work, copies, margin
from benchmarks.tables import frozen
from cleanlabel.models.extractors import features
from cleanlabel.redteam.threat.setups import Published
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize

CELL = small(BULLSEYE)


def images_of(count: int, seed: int, name: str) -> ImageSet:
    images, labels = coloured(count, (32, 32, 3), seed)
    return ImageSet(images, labels.astype(np.int64), tuple(f"{name}/{i}" for i in range(count)), tuple("abcdefghij"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Sets:
    root = tmp_path_factory.mktemp("frozen")
    denoiser = load_denoiser(save_tiny_denoiser(root / "d", 32, 3))
    train, pool, test = images_of(120, 0, "train"), images_of(80, 1, "pool"), images_of(40, 2, "test")
    networks = [trained(train.images, train.labels, 10, Recipe(epochs=3, batch=32), seed) for seed in (0, 1)]
    bases = tuple(np.flatnonzero(train.labels == 3)[:2].tolist())
    target = int(np.flatnonzero(test.labels == 5)[0])
    setups = [Published(5, target, 3, bases)]
    return Sets(pool, test, train, test, setups, *networks, denoiser, replace(QUICK, trusted=60), root / "scratch")


def test_features_of_the_poisons_alone_equal_those_of_the_whole_poisoned_set(sets):
    raw, rows = sets.raw(sets.setups[0], CELL)
    assert len(rows) == 3  # two public bases, and one of their class among the others
    assert (raw.labels[rows] == 3).all()
    changed = raw.take(rows).with_images(255 - raw.images[rows])
    whole = raw.images.copy()
    whole[rows] = changed.images
    for sigma in (0.0, 0.1):
        fast = sets.raw_features(raw, changed, rows, sigma, 1)
        entropy = draw_entropy(ENTROPY).value
        copy = sanitize(raw.with_images(whole), sigma, sets.denoiser, entropy, 1) if sigma else whole
        slow = features(sets.victim, copy)
        assert torch.allclose(fast, slow, rtol=0.05, atol=0.02 if sigma else 1e-5)
        untouched = sets.raw_features(raw, raw.take(rows), rows, sigma, 1)
        others = np.setdiff1d(np.arange(len(raw)), rows)
        assert torch.equal(untouched[others], fast[others])
        assert not torch.allclose(untouched[rows], fast[rows], atol=0.02)


def test_poisons_keep_their_budget_and_are_found_again(sets):
    work = Work(sets)
    raw, poisons, rows, facts = work._poisons(CELL, sets.setups[0])
    change = np.abs(poisons.images.astype(int) - raw.images[rows])
    assert 0 < change.max() <= 16
    assert facts["joint_l2"] == pytest.approx(np.sqrt((change**2).sum()) / 255, abs=1e-3)
    again = work._poisons(CELL, sets.setups[0])
    assert (again[1].images == poisons.images).all()


def test_black_box_attackers_do_not_have_the_victims_network(sets):
    for cell, networks in ((BLACK_BOX, sets.small), (BEYOND, sets.alike)):
        assert Work(sets)._networks(cell) == networks
        assert all(network is not sets.victim for network in networks)
        assert len(networks) >= 2
        assert len({id(network) for network in networks}) == len(networks)


def test_every_head_answers_and_what_deep_knn_removes_is_counted(sets):
    work = Work(sets)
    row = work._victim(CELL, 0, 0.1, 0)
    assert set(row["margins"]) == {"logistic", "lda", SUMS}
    found = work._filtered(CELL, 0, 0.0)
    assert 0 <= found["poisons_removed"] <= min(3, found["removed"])
    assert found["removed"] < len(sets.pool) + 2


def test_accuracy_is_on_clean_test_images(sets):
    found = Work(sets)._control({"": CELL}, 0, 0.0, 0)["accuracy"]
    assert all(0 <= found[head] <= 1 for head in ("logistic", "lda", SUMS))
    assert found["logistic"] > 0.5  # colours that any network tells apart


def test_a_margin_is_above_nothing_once_the_intended_class_leads():
    assert margin(np.array([1.0, 3.0, 2.5]), 1) == 0.5
    assert margin(np.array([1.0, 3.0, 2.5]), 0) == -2


def test_every_seed_has_a_copy_and_without_noise_there_is_one(sets):
    assert copies((0.0, 0.1), 2) == [(0.0, 0), (0.1, 0), (0.1, 1)]
    one, other = (sets.pool_features(0.1, seed) for seed in (0, 1))
    assert not torch.allclose(one, other, atol=0.02)
    assert torch.equal(other, sets.pool_features(0.1, 1))


def test_a_target_is_taken_if_most_of_its_victims_are_and_counts_once_it_is_whole():
    def rows(target: int, margins: list[float]) -> list[dict]:
        plain = {"cell": "bullseye", "target": target, "sigma": 0.0, "seed": 0}
        plain |= {"margins": {"logistic": 1.0}, "accuracy": {"logistic": 0.9}}
        noised = [plain | {"sigma": 0.1, "seed": i, "margins": {"logistic": m}} for i, m in enumerate(margins)]
        return [plain, *noised]

    record = {
        "cells": {"reported": {"bullseye": {}}},
        "settings": {"sigmas": [0.0, 0.1], "seeds": 3, "heads": ["logistic"]},
        "victims": [*rows(0, [1, -1, 1]), *rows(1, [-1, -1, 1]), *rows(2, [1, 1])],
        "filtered": [{"cell": "bullseye", "target": i, "sigma": 0.1} for i in range(3)],
    }
    assert frozen.whole(record) == 2  # of the third, a victim is not there yet
    assert frozen.taken(record, "victims", 0.1, "logistic", "bullseye") == [True, False]
    assert frozen.won(record, "victims", 0.1, "logistic")[0] == [True, False, True]
    assert frozen.accuracy(record, "victims", 0.1, "logistic") == pytest.approx(0.9)


def test_a_shift_is_the_median_over_targets_of_what_the_poisons_add_to_the_margin():
    def row(target: int, sigma: float, seed: int, margin: float, **more: str) -> dict:
        return {"target": target, "sigma": sigma, "seed": seed, "margins": {"logistic": margin}} | more

    copies_of = [(0.0, 0), (0.1, 0), (0.1, 1)]
    pulled = {0: (3.0, 0.0, 2.0), 1: (5.0, 1.0, 1.0), 2: (4.0, 9.0, 9.0)}
    record = {
        "cells": {"reported": {"bullseye": {}}},
        "settings": {"sigmas": [0.0, 0.1], "seeds": 2, "heads": ["logistic"]},
        "controls": [row(i, sigma, seed, -2.0) for i in range(3) for sigma, seed in copies_of],
        "victims": [
            row(i, sigma, seed, margin, cell="bullseye")
            for i, margins in pulled.items()
            for (sigma, seed), margin in zip(copies_of, margins, strict=True)
        ],
        "filtered": [{"cell": "bullseye", "target": i, "sigma": 0.1} for i in range(3)],
    }
    assert frozen.shift(record, "bullseye", 0.0, "logistic") == pytest.approx(6)  # of 5, 7 and 6
    assert frozen.shift(record, "bullseye", 0.1, "logistic") == pytest.approx(3)  # of 3, 3 and 11


def test_test_images_are_the_first_of_each_class():
    labels = np.array([0, 1, 0, 1, 0, 1])
    assert first_of_each(labels, np.array([1, 2, 3, 4, 5]), 1).tolist() == [1, 2]
