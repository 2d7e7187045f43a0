"""Rule 0: the noise that is drawn is the noise that the theorem is about, in whole pixel values."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny import FIXED

from cleanlabel.sanitize.device_noise import look_up, pixel_noise_on
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import noise_words, pixel_noise
from cleanlabel.sanitize.rounded_gaussian import LEAST_SIGMA, WORD, reference_draw, rounded_gaussian
from cleanlabel.sanitize.sanitizer import sanitize

SIGMAS = (LEAST_SIGMA, 0.1, 0.25, 1.0, 4.0)


def edges(sigma: float) -> np.ndarray:
    """The words at which a slip would show: every threshold, the word before it, and both ends."""
    thresholds = rounded_gaussian(sigma).thresholds
    ends = np.array([0, 1, 2, WORD // 2 - 1, WORD // 2, WORD - 2, WORD - 1], dtype=np.uint64)
    return np.concatenate([thresholds, thresholds - np.uint64(1), ends])


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_table_gives_what_the_slow_twin_gives(sigma):
    words = edges(sigma)
    words = np.concatenate([words[:: max(1, len(words) // 60)], words[-7:], noise_words(FIXED, "noise", 0, "a", 40)[0]])
    assert rounded_gaussian(sigma).draw(words).tolist() == [reference_draw(int(word), sigma) for word in words]


@given(st.integers(0, WORD - 1), st.sampled_from(SIGMAS[:4]))
def test_any_word_gives_what_the_slow_twin_gives(word, sigma):
    assert rounded_gaussian(sigma).draw(np.array([word], dtype=np.uint64)).tolist() == [reference_draw(word, sigma)]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_tensor_way_is_equal_to_the_bit(sigma):
    words = np.concatenate([edges(sigma), noise_words(FIXED, "noise", 0, ["a"], 20_000)[0]])
    seen = look_up(torch.from_numpy(words.view(np.int64)), sigma)
    assert seen.dtype == torch.int32
    np.testing.assert_array_equal(seen.numpy(), rounded_gaussian(sigma).draw(words))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_draws_the_same_noise_to_the_bit():
    arguments = (FIXED, "noise", 3, ["a", "b"], (32, 32, 3), 0.25)
    device = pixel_noise_on(torch.device("cuda"), *arguments)
    np.testing.assert_array_equal(device.cpu().numpy(), pixel_noise(*arguments))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_threshold_is_within_one_step_of_the_ideal_one(sigma):
    thresholds = rounded_gaussian(sigma).thresholds
    n = len(thresholds) // 2
    with mpmath.workprec(200):
        spread = mpmath.mpf(repr(sigma)) * 255
        for i in range(0, 2 * n, max(1, n // 20)):
            ideal = mpmath.ldexp(mpmath.ncdf((i - n + mpmath.mpf(1) / 2) / spread), 64)
            assert abs(int(thresholds[i]) - ideal) < 1
        left_out = mpmath.ldexp(mpmath.ncdf((-n - mpmath.mpf(1) / 2) / spread), 64)
        assert left_out < 1
    assert n >= 3  # what the bound on the total variation asks for


def test_the_total_variation_is_bounded_by_the_number_of_thresholds():
    gaussian = rounded_gaussian(0.1)
    n = len(gaussian.thresholds) // 2
    with mpmath.workprec(300):
        cuts = [mpmath.mpf(0), *map(mpmath.mpf, map(int, gaussian.thresholds)), mpmath.mpf(WORD)]
        drawn = [(b - a) / WORD for a, b in pairwise(cuts)]  # of the values -n..n
        ideal_cuts = [mpmath.ncdf((j + mpmath.mpf(1) / 2) / (255 * mpmath.mpf("0.1"))) for j in range(-n - 1, n + 1)]
        ideal = [b - a for a, b in pairwise(ideal_cuts)]
        distance = (sum(abs(a - b) for a, b in zip(drawn, ideal, strict=True)) + 2 * ideal_cuts[0]) / 2
    assert 0 < distance <= gaussian.total_variation
    assert gaussian.total_variation < 2**-54


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_drawn_values_have_the_rounded_gaussians_frequencies(sigma):
    drawn = pixel_noise(FIXED, "noise", 0, [str(i) for i in range(40)], (100, 100), sigma).ravel()
    spread = 255 * sigma
    inner = np.unique(np.round(stats.norm.ppf(np.linspace(0.002, 0.998, 60)) * spread)) + 0.5
    expected = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], inner, [np.inf]]) / spread)) * drawn.size
    found = np.histogram(drawn, np.concatenate([[-np.inf], inner, [np.inf]]))[0]
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_noise_of_sigma_has_that_deviation_and_the_price_of_rounding():
    drawn = pixel_noise(FIXED, "noise", 1, [str(i) for i in range(64)], (128, 128), 0.1) / 255
    assert drawn.std() == pytest.approx(math.sqrt(0.1**2 + 1 / 255**2 / 12), rel=0.003)


@pytest.mark.parametrize(
    ("sigma", "sentence"),
    [
        (0.0019, "sigma=0.0019 is less than half a grey level, 0.00196"),
        (100.5, "sigma=100.5 exceeds 100, beyond which the noise's tables outgrow memory"),
        (math.nan, "sigma=nan is not a valid noise level"),
        (math.inf, "sigma=inf is not a valid noise level"),
        (0.0, "sigma=0.0 is not a valid noise level"),
        (-1.0, "sigma=-1.0 is not a valid noise level"),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused(sigma, sentence):
    with pytest.raises(InputError, match=sentence):
        pixel_noise(FIXED, "noise", 0, ["a"], (1,), sigma)


# A learner that looks at the last bits (Voracek & Hein 2023) against sets of one-pixel images.


def one_pixel_set(value: int) -> ImageSet:
    ids = tuple(map(str, range(60)))
    return ImageSet(np.full((60, 1, 1, 1), value, np.uint8), np.zeros(60, np.int64), ids, ("only",))


def float32_sums(images: ImageSet, draw: int) -> np.ndarray:
    """Noise as it is usually added: float32 normal numbers to float32 pixels."""
    normal = np.random.default_rng(draw).standard_normal(images.images.shape).astype(np.float32)
    return images.images.astype(np.float32) / np.float32(255) + normal


def all_are_sums_of(value: int, noised: np.ndarray) -> bool:
    """Whether every number is the float32 sum of value/255 and some float32: the learner's answer."""
    pixel = np.float32(value) / np.float32(255)
    nearest = (noised.astype(np.float64) - np.float64(pixel)).astype(np.float32)
    found = pixel + nearest == noised
    for end in (np.float32(-np.inf), np.float32(np.inf)):
        found |= pixel + np.nextafter(nearest, end) == noised
    return bool(found.all())


def test_the_last_bits_of_float32_sums_tell_two_sets_apart_that_whole_values_do_not():
    """Sets at joint distance sqrt(60)/255 = 0.030; 100 of 100 votes certify 1.45 at sigma = 1."""
    one, other = one_pixel_set(128), one_pixel_set(129)
    floats = [[all_are_sums_of(128, float32_sums(s, draw)) for draw in range(100)] for s in (one, other)]
    assert [sum(answers) for answers in floats] == [100, 0]  # unanimous, and turned within a fiftieth of the radius

    whole = [[all_are_sums_of(128, sanitize(s, 1.0, None, FIXED, draw)) for draw in range(100)] for s in (one, other)]
    assert whole[0] == whole[1]


def test_neighbouring_pixels_have_the_ratio_of_masses_that_the_gaussian_says():
    gaussian = rounded_gaussian(1.0)
    n = len(gaussian.thresholds) // 2
    cuts = [0, *map(int, gaussian.thresholds), WORD]
    mass = dict(zip(range(-n, n + 1), (b - a for a, b in pairwise(cuts)), strict=True))
    for value in range(128 - 1500, 129 + 1500, 50):  # to six standard deviations: the same support, no gap in it
        ratio = mass[value - 129] / mass[value - 128]
        ideal = math.exp(((value - 128) ** 2 - (value - 129) ** 2) / (2 * 255**2))
        assert ratio == pytest.approx(ideal, rel=1e-4)


def test_what_is_handed_on_is_whole_pixel_values():
    noised = sanitize(one_pixel_set(200), 0.25, None, FIXED)
    np.testing.assert_array_equal(noised, np.round(noised * 255).astype(np.float32) / np.float32(255))
    assert noised.max() > 1  # not clipped
