"""Images of another size or depth than the denoiser's: where the noise is, and what is only post-processing."""

import numpy as np
import pytest
import torch
from tiny import FIXED, save_tiny_denoiser

from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import Facts
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fitting import fitting_for
from cleanlabel.sanitize.noise import pixel_noise
from cleanlabel.sanitize.sanitizer import sanitize_batch

GREY, COLOUR = Facts(1, 8, 78.0), Facts(3, 8, 78.0)
generator = np.random.default_rng(0)


def images(n: int, h: int, w: int, c: int) -> np.ndarray:
    return generator.integers(0, 256, (n, h, w, c), dtype=np.uint8)


@pytest.mark.parametrize("facts", [GREY, COLOUR])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("fit", "h", "w"), [("exact", 8, 8), ("tiles", 8, 8), ("tiles", 19, 24), ("tiles", 9, 17)])
def test_a_network_that_changes_nothing_changes_nothing(facts, channels, fit, h, w):
    fitting = fitting_for(np.array([[h, w]]), channels, facts, fit)
    noised = torch.randn(5, channels, h, w)
    inputs = fitting.into_network(noised)
    assert inputs.shape[1:] == (facts.channels, 8, 8)
    assert len(inputs) == 5 * fitting.answers_per_image(h, w)
    torch.testing.assert_close(fitting.out_of_network(inputs, 5, h, w), noised)


def test_noise_is_added_to_the_images_own_channels_and_only_then_repeated():
    fitting = fitting_for(np.array([[8, 8]]), 1, COLOUR, "exact")
    inputs = fitting.into_network(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(inputs[:, 0], inputs[:, 2])


def test_tiles_cut_noise_that_was_made_at_the_images_own_size(tmp_path):
    denoiser = load_denoiser(save_tiny_denoiser(tmp_path))
    fitting = fitting_for(np.array([[12, 8]]), 1, denoiser.facts, "tiles")
    seen = []

    def watch(part: torch.Tensor) -> torch.Tensor:
        seen.append(part)
        return denoiser.denoise(part, 0.5)

    raw = images(2, 12, 8, 1)
    made = sanitize_batch(raw, ["a", "b"], 0.5, denoiser, FIXED, 0, fitting=fitting, denoise=watch)
    noise = pixel_noise(FIXED, "noise", 0, ["a", "b"], (12, 8, 1), 0.5)
    noised = (raw + noise).astype(np.float32) / np.float32(255)
    whole = torch.from_numpy(noised).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0], torch.cat([whole[:, :, :8], whole[:, :, 4:]]))
    assert made.shape == raw.shape


def test_resizing_comes_before_the_noise_and_clips_nothing():
    fitting = fitting_for(np.array([[16, 12]]), 3, COLOUR, "resize")
    edge = np.zeros((1, 16, 12, 3), np.uint8)
    edge[:, :, 6:] = 255
    working = fitting.before_noise(edge)
    assert working.shape == (1, 8, 8, 3)
    assert working.dtype == np.int32  # whole values before the noise: their sum with whole noise is exact
    assert working.min() < 0 or working.max() > 255  # a bicubic edge overshoots; it is left as it is
    halves = fitting.before_noise(edge // 2 * 2)
    np.testing.assert_allclose(halves, working * (254 / 255), atol=1)  # linear, but for the rounding
    out = fitting.out_of_network(torch.from_numpy(working / np.float32(255)).permute(0, 3, 1, 2), 1, 16, 12)
    assert out.shape == (1, 3, 16, 12)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


@pytest.mark.parametrize(
    ("sizes", "channels", "facts", "fit", "sentence"),
    [
        ([[8, 9]], 3, COLOUR, "exact", "the images are 9x8, the denoiser takes 8x8; choose another denoiser, resize"),
        ([[8, 8], [9, 9]], 3, COLOUR, "exact", "some of the images are 9x9"),
        ([[8, 8], [8, 7]], 3, COLOUR, "tiles", "an image of 7x8 is smaller than a tile of 8x8; choose --fit resize"),
        ([[8, 8]], 3, Facts(4, 8, 78.0), "exact", "a denoiser of 4 channels cannot take images of 3"),
    ],
)
def test_what_makes_no_sense_is_refused(sizes, channels, facts, fit, sentence):
    with pytest.raises(InputError, match=sentence):
        fitting_for(np.array(sizes), channels, facts, fit)


@pytest.mark.parametrize(("channels", "network"), [(1, 3), (3, 1), (3, 3)])
def test_images_of_any_depth_are_sanitized_by_either_network(channels, network, tmp_path):
    denoiser = load_denoiser(save_tiny_denoiser(tmp_path, channels=network))
    raw = images(3, 8, 8, channels)
    made = sanitize_batch(raw, ["a", "b", "c"], 0.5, denoiser, FIXED, 0)
    assert (made.shape, made.dtype) == (raw.shape, np.uint8)
    alone = sanitize_batch(raw[1:2], ["b"], 0.5, denoiser, FIXED, 0)
    assert np.abs(made[1:2].astype(int) - alone).max() <= 1
