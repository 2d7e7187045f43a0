"""Rules 1 and 3: the noise comes first, and it is exactly sigma."""

import numpy as np
import pytest
from filled import filled
from tiny import FIXED, save_tiny_denoiser

from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import pixel_noise
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize, sanitize_batch


def test_noise_of_exactly_sigma_is_added_to_the_pixels_as_supplied(small_set):
    noised = sanitize(small_set, 0.7, None, FIXED, draw=2)
    noise = pixel_noise(FIXED, "noise", 2, small_set.ids, (8, 8, 1), 0.7)
    np.testing.assert_array_equal(noised, (small_set.images + noise).astype(np.float32) / np.float32(255))
    assert noise.std() / 255 == pytest.approx(0.7, rel=0.05)


def test_nothing_is_clipped_or_rounded_before_the_noise(small_set):
    extremes = small_set.with_images(np.where(small_set.images > 127, 255, 0).astype(np.uint8))
    noised = sanitize(extremes, 1.0, None, FIXED, draw=0)
    assert noised.min() < -1
    assert noised.max() > 2
    residual = noised - extremes.images / 255
    assert abs(residual.mean()) < 0.1  # clipping would push it inwards
    assert abs(residual.std() - 1) < 0.05


def test_what_happens_to_an_image_depends_on_no_other_image(small_set, denoiser):
    # Anything computed over the raw set (a mean, a whitening, a filter) would show in the other rows.
    changed = small_set.images.copy()
    changed[7] = 255 - changed[7]
    before = sanitize(small_set, 0.5, denoiser, FIXED, draw=0, batch=1)
    after = sanitize(small_set.with_images(changed), 0.5, denoiser, FIXED, draw=0, batch=1)
    differs = (before != after).any(axis=(1, 2, 3))
    assert differs.tolist() == [i == 7 for i in range(24)]


@pytest.mark.parametrize("batch", [1, 5, 7, 24, 100])
def test_the_noise_is_the_same_for_every_batch_size(small_set, batch):
    np.testing.assert_array_equal(
        sanitize(small_set, 0.5, None, FIXED, 0, batch=batch), sanitize(small_set, 0.5, None, FIXED, 0, batch=24)
    )


@pytest.mark.parametrize("batch", [1, 7])
def test_the_copy_is_the_same_for_every_batch_size_to_a_rounding(small_set, denoiser, batch):
    one = sanitize(small_set, 0.5, denoiser, FIXED, 0, batch=batch).astype(int)
    other = sanitize(small_set, 0.5, denoiser, FIXED, 0, batch=24).astype(int)
    assert np.abs(one - other).max() <= 1


def test_order_in_the_set_does_not_matter(small_set, denoiser):
    shuffled = small_set.take(np.random.default_rng(1).permutation(24))
    straight = dict(zip(small_set.ids, sanitize(small_set, 1.0, denoiser, FIXED, 4, batch=1), strict=True))
    for image_id, image in zip(filled(shuffled.ids), sanitize(shuffled, 1.0, denoiser, FIXED, 4, batch=1), strict=True):
        np.testing.assert_array_equal(image, straight[image_id])


def test_draws_are_independent(small_set):
    noise = [sanitize(small_set, 1.0, None, FIXED, d) - small_set.images / 255 for d in (0, 1)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 5 / np.sqrt(noise[0].size)


def test_test_noise_and_training_noise_of_one_image_are_independent(small_set):
    noise = [
        sanitize_batch(small_set.images, small_set.ids, 1.0, None, FIXED, 0, role) - small_set.images / 255
        for role in ("noise", "test-noise")
    ]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 5 / np.sqrt(noise[0].size)


def test_a_denoised_copy_is_whole_pixels_and_a_noised_one_becomes_them(small_set, denoiser):
    assert sanitize(small_set, 0.5, denoiser, FIXED, 0).dtype == np.uint8
    np.testing.assert_array_equal(as_pixels(np.array([-3.0, 0.0, 0.5, 1.0, 7.0], np.float32)), [0, 0, 128, 255, 255])


def test_images_of_another_size_are_refused(small_set, tmp_path):
    larger = load_denoiser(save_tiny_denoiser(tmp_path / "larger", size=16, channels=3))
    with pytest.raises(InputError, match="the images are 8x8, the denoiser takes 16x16"):
        sanitize(small_set, 0.5, larger, FIXED, 0)


def test_a_sigma_out_of_reach_is_refused(small_set, denoiser):
    with pytest.raises(InputError, match="sigma=1000 is above 4"):
        sanitize(small_set, 1000, denoiser, FIXED, 0)
    with pytest.raises(InputError, match="sigma=-1"):
        sanitize(small_set, -1, None, FIXED, 0)
