"""Rule 2: one draw an image and model, kept for the whole training; every draw its own noise and seed."""

import threading
from itertools import combinations

import numpy as np
import pytest
import torch
from models_recipes import QUICK
from tiny import FIXED

from cleanlabel.models.draw import Smoothed, ahead, make_again, make_batch
from cleanlabel.models.draw import make_draw as make
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import predict, train
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import seal, training_seed
from cleanlabel.sanitize.sanitizer import sanitize


def materials(raw: ImageSet, sigma: float, denoiser: Denoiser | None, recipe: TrainParams, **more: object) -> Materials:
    return Materials(raw, raw, sigma, denoiser, recipe, 10, **more)


def make_draw(raw: ImageSet, sigma: float, denoiser: Denoiser | None, recipe: TrainParams, draw: int) -> Smoothed:
    return make(materials(raw, sigma, denoiser, recipe), FIXED, draw)


def weights(made: Smoothed) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.state_dict().values()])


def test_a_draw_trains_on_one_sanitized_copy_and_on_nothing_else(small_set, denoiser):
    made = make_draw(small_set, 0.5, denoiser, QUICK, draw=3)
    copy = sanitize(small_set, 0.5, denoiser, FIXED, draw=3)
    by_hand = train(copy, small_set.labels, 3, QUICK, training_seed(FIXED, 3))
    for name, tensor in made.model.state_dict().items():
        torch.testing.assert_close(tensor, by_hand.state_dict()[name], atol=0, rtol=0)
    np.testing.assert_array_equal(made.votes, predict(by_hand, small_set.images))


def test_training_sees_the_same_pixels_in_every_epoch(small_set, denoiser, monkeypatch):
    # Fresh noise every epoch would give E looks at each poison and divide sigma by sqrt(E).
    drawn = []
    real = np.random.Philox
    monkeypatch.setattr(np.random, "Philox", lambda key: drawn.append(tuple(key)) or real(key=key))
    make_draw(small_set, 0.5, denoiser, QUICK.model_copy(update={"epochs": 5}), draw=0)
    assert len(drawn) == len(set(drawn)) == len(small_set)


def test_a_draw_can_be_made_again_and_no_other_draw_is_like_it(small_set, denoiser):
    def trained(draw: int) -> torch.Tensor:
        return weights(make_draw(small_set, 0.5, denoiser, QUICK, draw))

    torch.testing.assert_close(trained(1), trained(1), atol=0, rtol=0)
    assert not torch.equal(trained(1), trained(2))


def test_without_a_denoiser_the_noise_stays_in(small_set):
    made = make_draw(small_set, 1.0, None, QUICK, draw=0)
    noised = sanitize(small_set, 1.0, None, FIXED, draw=0)
    by_hand = train(noised, small_set.labels, 3, QUICK, training_seed(FIXED, 0))
    np.testing.assert_array_equal(made.votes, predict(by_hand, small_set.images))


def test_noise_on_the_test_inputs_comes_from_a_stream_of_its_own(small_set, denoiser):
    # Training set and test set are the same images with the same ids here: a shared stream would cancel.
    made = make(materials(small_set, 0.5, denoiser, QUICK, test_sigma=0.25), FIXED, 3)
    seen = sanitize(small_set, 0.25, denoiser, FIXED, draw=3, role="test-noise")
    np.testing.assert_array_equal(made.votes, predict(made.model, seen))
    streams = [
        sanitize(small_set, 1.0, None, FIXED, draw, role=role) for role in ("noise", "test-noise") for draw in (0, 1)
    ]
    for a, b in combinations([stream - small_set.images / np.float32(255) for stream in streams], 2):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_a_seal_is_one_draws_own_and_gives_nothing_away(small_set):
    made = [make_draw(small_set, 1.0, None, QUICK, draw) for draw in (0, 1, 1)]
    assert made[0].seal != made[1].seal == made[2].seal
    assert made[0].copy_sha256 != made[1].copy_sha256 == made[2].copy_sha256
    assert made[0].seal != seal(bytes(32), 0)
    assert FIXED.hex() not in made[0].seal


def test_a_batch_is_its_draws_made_one_at_a_time(small_set, denoiser):
    for recipe in (QUICK, QUICK.model_copy(update={"architecture": "small-cnn", "width": 4})):
        batch = list(make_batch(materials(small_set, 0.5, denoiser, recipe), FIXED, range(2, 6)))
        assert [made.draw for made in batch] == [2, 3, 4, 5]
        for made in batch:
            slow = make_draw(small_set, 0.5, denoiser, recipe, made.draw)
            assert made.seal == slow.seal
            torch.testing.assert_close(
                weights(made), weights(slow), atol=2e-2, rtol=0
            )  # pixels may differ by a rounding
            assert np.mean(made.votes == slow.votes) >= 0.9


def test_one_draw_of_a_batch_is_made_again_to_the_bit(small_set, denoiser):
    ours = materials(small_set, 0.5, denoiser, QUICK)
    batch = list(make_batch(ours, FIXED, range(4)))
    again = make_again(ours, FIXED, range(4), 2)
    torch.testing.assert_close(weights(again), weights(batch[2]), atol=0, rtol=0)
    np.testing.assert_array_equal(again.votes, batch[2].votes)


def test_what_is_made_ahead_comes_in_order_and_one_at_a_time(small_set):
    running, most = [], []

    def slowly(draw: int) -> int:
        running.append(draw)
        most.append(len(running))
        running.remove(draw)
        return draw

    assert list(ahead(slowly, [3, 1, 2])) == [3, 1, 2]
    assert max(most) == 1


def test_an_error_while_making_ahead_reaches_whoever_asks():
    def refuse(draw: int) -> int:
        raise ValueError(f"draw {draw}")

    with pytest.raises(ValueError, match="draw 7"):
        list(ahead(refuse, [7]))


def test_all_batches_are_sanitized_by_one_thread():
    threads = {thread for _ in range(2) for thread in ahead(lambda _: threading.get_ident(), range(3))}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_an_accelerators_memory_decides_how_many_images_are_denoised_at_once(small_set, denoiser, monkeypatch):
    ours = materials(small_set, 0.5, denoiser, QUICK)
    assert (ours.batch, materials(small_set, 0.5, None, QUICK).batch) == (24, 24)
    monkeypatch.setattr("cleanlabel.sanitize.rows.memory_of", lambda _: 2**20)
    assert (ours.batch, materials(small_set, 0.5, None, QUICK).batch) == (8, 24)
    assert materials(small_set, 0.5, denoiser, QUICK).fast(0.5).batch == 8
