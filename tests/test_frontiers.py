"""The pure parts of the benchmark of frontiers."""

import numpy as np
import torch

from benchmarks.frontiers.curves import FREES, Curve, pair
from benchmarks.frontiers.rivals import mean_probability
from benchmarks.frontiers.sets import noise_only, sizes_up_to
from benchmarks.frontiers.votes import block_logits, votes_of
from cleanlabel.models.heads import fit_head_of_some
from cleanlabel.models.votes import NOBODY
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.sanitizer import sanitize_batch


def some_features() -> tuple[torch.Tensor, np.ndarray, np.ndarray, torch.Tensor]:
    """Features, labels, blocks of 3 (the last without class 2), and test features."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(60) % 3
    blocks = np.arange(60) // 20
    blocks[(blocks == 2) & (labels == 2)] = 0
    found = torch.randn(60, 5, generator=generator) + 2 * torch.nn.functional.one_hot(torch.from_numpy(labels), 5)
    return found, labels, blocks, torch.randn(40, 5, generator=generator)


def test_each_block_answers_as_a_head_fitted_to_it_alone():
    found, labels, blocks, asked = some_features()
    logits = block_logits(found, labels, blocks, 3, asked, 3, "lda", 1.0)
    for block in range(3):
        own = blocks == block
        head = fit_head_of_some(found[own], torch.from_numpy(labels[own]), 3, "lda", 1.0)
        np.testing.assert_array_equal(logits[block], head(asked).numpy())
    assert 2 not in votes_of(logits)[2]


def test_a_block_knows_nothing_of_the_others_and_an_empty_one_votes_for_nobody():
    found, labels, blocks, asked = some_features()
    before = block_logits(found, labels, blocks, 4, asked, 3, "ridge", 0.3)
    found[blocks == 1] += 7
    after = block_logits(found, labels, blocks, 4, asked, 3, "ridge", 0.3)
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert (before[1] != after[1]).any()
    assert (votes_of(after)[3] == NOBODY).all()


def test_the_best_of_both_kinds_and_their_difference():
    def curve(k: int, sigma: float, radii: list[float]) -> Curve:
        radius = np.tile(radii, (len(FREES), 1))
        return Curve("head", 10, sigma, k, np.where(radius > 0, 0, -1), radius, np.zeros(4, dtype=int), 1.0, 1.0)

    curves = [curve(1, 0.5, [1, 1, 0, 0]), curve(1, 1, [2, 0, 0, 0]), curve(5, 0.5, [3, 3, 3, 0])]
    row = pair(curves, 0, 0.5)
    assert row["one"] == {"sigma": 0.5, "certified": 0.5}
    assert row["many"] == {"sigma": 0.5, "k": 5, "certified": 0.75}
    assert (row["difference"], row["error"]) == (0.25, 0.25)
    assert pair(curves, 0, 2.5)["difference"] is None  # no ensemble was measured that could reach so far


def test_noise_that_serves_every_sigma_is_the_sanitizers():
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    raw = ImageSet(images, np.array([0, 1, 0]), ("a", "b", "c"), ("0", "1"))
    for sigma in (0.5, 1.0):
        wanted = sanitize_batch(images, raw.ids, sigma, None, bytes(32), 3)
        np.testing.assert_array_equal(noise_only(raw)(sigma)(bytes(32), 3), wanted)


def test_small_parts():
    assert sizes_up_to(5000, 600) == (625, 1250, 2500, 5000)
    assert sizes_up_to(10_000, 600, 4) == (625, 2500, 10_000)
    shares = mean_probability(np.array([[[[0.0, 0.0]]], [[[0.0, 100.0]]]], dtype=np.float32))
    np.testing.assert_allclose(shares, [[[0.25, 0.75]]])
