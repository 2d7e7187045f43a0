"""Filters remove what they should: held to scikit-learn's neighbours, and to clusters that everybody sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from redteam_parts import digits
from redteam_sets import RECIPE, digit_extractor, digit_sets
from sklearn.neighbors import KNeighborsClassifier

from cleanlabel.redteam.defences import DEFENCES, defence_named
from cleanlabel.redteam.defences.activation_clustering import ActivationClustering
from cleanlabel.redteam.defences.deep_knn import DeepKnn, nearest_in_blocks, strangers
from cleanlabel.redteam.defences.interface import Context, training_features
from cleanlabel.redteam.defences.spectral_signatures import SpectralSignatures, outstanding
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


def transfer() -> Victim:
    return Victim("transfer", RECIPE, 10, (8, 8, 1), digit_extractor())


def features(n: int = 300) -> tuple[torch.Tensor, np.ndarray]:
    raw = digit_sets()["raw"]
    return training_features(raw, transfer(), 0)[:n], raw.labels[:n]


def with_a_planted_cluster() -> tuple[ImageSet, np.ndarray]:
    """Twenty images of one class with a bright square: a backdoor in the features, and their rows."""
    raw, _ = digits()
    rows = np.flatnonzero(raw.labels == 3)[:20]
    images = raw.images.copy()
    images[rows, :4, :4] = 255
    return raw.with_images(images), rows


def test_neighbours_found_in_blocks_are_those_found_at_once():
    found, _ = features()
    at_once = torch.cdist(found, found).fill_diagonal_(torch.inf).topk(7, largest=False).indices
    for block in (1, 64, 1000):
        rows, nearest = zip(*nearest_in_blocks(found, 7, block), strict=True)
        assert torch.equal(torch.cat(rows), torch.arange(300))
        assert torch.equal(torch.cat(nearest).sort(dim=1).values, at_once.sort(dim=1).values)


@pytest.mark.parametrize("k", [1, 5, 60])
def test_deep_knn_removes_those_whom_scikit_learn_calls_another_class(k):
    found, labels = features()
    neighbours = KNeighborsClassifier(k, algorithm="brute").fit(found.numpy(), labels)
    votes = neighbours.predict_proba(None)  # no image is its own neighbour
    removed = strangers(found, labels, k)
    beaten = votes.max(axis=1) > votes[np.arange(300), labels]
    assert removed.tolist() == np.flatnonzero(beaten).tolist()
    assert set(removed) <= set(np.flatnonzero(neighbours.predict(None) != labels))


def test_neighbours_of_a_small_class_count_for_more_where_asked():
    labels = np.array([0] * 20 + [1] * 4)
    found = torch.cat([torch.linspace(0, 1, 20), torch.linspace(1.1, 1.2, 4)])[:, None]
    assert set(strangers(found, labels, 9)) == {20, 21, 22, 23}
    removed = set(strangers(found, labels, 9, normalise=True))
    assert 19 in removed
    assert removed < set(range(15, 20))


def test_the_rule_of_thumb_is_twice_a_class():
    raw = digit_sets()["raw"]
    assert DeepKnn().neighbours(raw) == 80
    assert DeepKnn(k=7).neighbours(raw) == 7


@pytest.mark.parametrize("name", ["spectral", "activation-clustering"])
@pytest.mark.parametrize("scenario", ["transfer", "scratch"])
def test_an_obvious_cluster_is_mostly_removed(name, scenario):
    poisoned, rows = with_a_planted_cluster()
    victim = transfer() if scenario == "transfer" else Victim("scratch", RECIPE, 10, (8, 8, 1))
    defended = defence_named(name, {"share": "0.15"} if name == "spectral" else {}).fit(poisoned, victim, Context(), 1)
    assert np.isin(rows, defended.removed).mean() > 0.6
    test = digit_sets()["test"]
    assert np.mean(defended.answers(test.images) == test.labels) > 0.8


def test_the_score_is_the_projection_on_the_top_singular_vector():
    found, labels = features()
    f, y = found.numpy(), labels
    rows = np.flatnonzero(y == 4)
    centred = f[rows] - f[rows].mean(axis=0)
    score = (centred @ np.linalg.svd(centred)[2][0]) ** 2
    wanted = rows[np.argsort(-score)[: int(0.15 * len(rows))]]
    assert set(wanted) == set(outstanding(f, y, 0.1)) & set(rows)


def test_a_class_without_two_clusters_is_left_alone():
    noise = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    assert ActivationClustering().suspicious(noise, np.zeros(200, dtype=np.int64)).size == 0


def test_a_class_that_is_filtered_out_is_never_chosen_again():
    raw = digit_sets()["raw"]
    images, labels = raw.images.copy(), raw.labels
    images[labels == 5] = images[labels != 5][: (labels == 5).sum()]  # all of them in the midst of others
    test = digit_sets()["test"]
    defended = DeepKnn(k=60).fit(raw.with_images(images), transfer(), Context(), 0)
    assert set(np.flatnonzero(labels == 5)) <= set(defended.removed)
    assert 5 not in defended.answers(test.images)
    assert np.mean(defended.answers(test.images) == test.labels) > 0.7
    with pytest.raises(
        InputError, match="class 5 has no image left, and fine-tuning begins with a head of every class"
    ):
        DeepKnn(k=60).fit(raw.with_images(images), replace(transfer(), scenario="fine-tune"), Context(), 0)


@pytest.mark.parametrize(
    ("defence", "words"),
    [
        (DeepKnn(k=400), "k=400 neighbours are out of range for a set of 400 images; choose 1 to 399"),
        (DeepKnn(k=-1), "k=-1 neighbours are out of range"),
        (SpectralSignatures(share=0.7), "share=0.7 removes 105% of every class; choose one above 0 and below 0.67"),
        (ActivationClustering(components=0), "components=0 is too few; give 1 or more"),
        (ActivationClustering(size=0.6), "size=0.6 cannot be the share of the smaller cluster"),
    ],
)
def test_settings_that_cannot_be_are_refused(defence, words):
    with pytest.raises(InputError, match=words):
        defence.fit(digit_sets()["raw"], transfer(), Context(), 0)


def test_defences_are_found_by_name_and_take_their_settings_as_text():
    assert set(DEFENCES) >= {
        "none",
        "sanitize",
        "noise-only",
        "deep-knn",
        "dp-sgd",
        "friends",
        "dpa",
        "roe",
        "spectral",
    }
    assert defence_named("deep-knn", {"k": "9", "normalise": "true"}) == DeepKnn(k=9, normalise=True)
    with pytest.raises(InputError, match="defence 'knn' is unknown; choose one of none, sanitize, noise-only"):
        defence_named("knn")
    with pytest.raises(InputError, match="defence deep-knn has no setting 'K'; it has k, normalise"):
        defence_named("deep-knn", {"K": "9"})
    with pytest.raises(InputError, match="setting k='many' of defence deep-knn is no int"):
        defence_named("deep-knn", {"k": "many"})
