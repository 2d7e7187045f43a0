"""Rules 4 and 5 against slips: all 256 bits of entropy, a stream for every id as written, tails that reach far."""

import secrets
from itertools import combinations

import numpy as np
import pytest
from filled import filled
from scipy.special import ndtri
from tiny import FIXED

from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.imageset import ImageSet, load, save_npz
from cleanlabel.sanitize.noise import draw_entropy, noise_words, pixel_noise, stream_key, training_seed
from cleanlabel.sanitize.sources import open_source

ALIKE = (
    "cat/7.png",
    "Cat/7.png",
    "CAT/7.PNG",
    "cat/7.png ",
    "cat/7",
    "cat\\7.png",
    "cat//7.png",
    "cat/07.png",
    "7.png",
)
"""Names of different images that a careless comparison takes for one."""
UNICODE = ("caf\u00e9.png", "cafe\u0301.png", "cafe.png", "\uff43afe.png", "stra\u00dfe", "strasse")
LONG = ("x" * 300 + "a", "x" * 300 + "b", "x" * 299 + "a")
NO_IDS = ("", "0", "train", "noise", "block/0", "block/1")
"""What a training seed might be keyed with, as image ids."""


def test_every_bit_of_the_operating_systems_entropy_varies():
    drawn = np.array([np.frombuffer(draw_entropy("os").value, dtype=np.uint8) for _ in range(128)])
    ones = np.unpackbits(drawn, axis=1).sum(axis=0)
    assert ones.shape == (256,)
    assert (ones > 16).all()  # a fair coin falls outside 17..111 of 128 once in 10^18 throws
    assert (ones < 112).all()
    agree = (np.unpackbits(drawn, axis=1)[:, :, None] == np.unpackbits(drawn, axis=1)[:, None, :]).mean(axis=0)
    assert (agree[~np.eye(256, dtype=bool)] < 1).all()  # no bit is another one's copy


@pytest.mark.parametrize("ids", [ALIKE, UNICODE, LONG], ids=("alike", "unicode", "long"))
def test_two_ids_that_differ_in_anything_share_no_noise(ids):
    noise = pixel_noise(FIXED, "noise", 0, ids, (6, 6, 1), 4.0)
    for one, other in combinations(filled(noise), 2):
        assert (one == other).mean() < 0.2  # whole values may meet by chance
    words = noise_words(FIXED, "noise", 0, ids, 36)
    assert np.unique(words).size == words.size


@pytest.mark.parametrize("role", ["noise", "test-noise"])
@pytest.mark.parametrize("block", [None, 0, 1])
def test_a_training_seed_is_no_key_and_no_word_of_a_noise_stream(block, role):
    for draw in range(5):
        seed = training_seed(FIXED, draw, block)
        for image_id in NO_IDS:
            key = stream_key(FIXED, role, draw, image_id)
            words = np.concatenate(
                [key, np.random.Philox(key=key).random_raw(64), np.random.Philox(key=seed).random_raw(4)]
            )
            found = {int(word) >> shift & 2**63 - 1 for word in words for shift in (0, 1)}
            assert seed not in found
            assert seed & 2**32 - 1 not in {word & 2**32 - 1 for word in found}


def test_training_cannot_replay_the_noise_from_its_seed():
    words = noise_words(FIXED, "noise", 3, ["0", "7"], 64).ravel()
    noise = pixel_noise(FIXED, "noise", 3, ["0", "7"], (64,), 1.0).ravel()
    seed = training_seed(FIXED, 3)
    replays = [
        np.random.default_rng(seed),
        np.random.Generator(np.random.Philox(seed)),
        np.random.RandomState(seed % 2**32),
    ]
    for replay in replays:
        drawn = replay.standard_normal(256) * 255
        assert np.isin(np.round(drawn), noise).mean() < 0.5  # whole values may meet by chance
    generators = [np.random.Philox(seed), np.random.Philox(key=seed), np.random.PCG64(seed)]
    for generator in generators:
        assert not np.isin(generator.random_raw(256), words).any()


class Words:
    """A Philox generator whose every word is the same."""

    def __init__(self, word: int) -> None:
        self.word = word

    def __call__(self, key: object) -> "Words":
        return self

    def random_raw(self, size: int) -> np.ndarray:
        return np.full(size, self.word, dtype=np.uint64)


@pytest.mark.parametrize(("word", "least"), [(0, 8.0), (2**14, 7.0), (2**30, 6.0), (2**40 - 1, 5.2)])
def test_the_rarest_words_give_the_far_tails_and_they_are_finite(word, least, monkeypatch):
    # 24 bits end at 5.4 sigma, and where a uniform number is rounded to 1 its normal one is infinite
    tails = []
    for mirrored in (word, 2**64 - 1 - word):
        monkeypatch.setattr(np.random, "Philox", Words(mirrored))
        tails.append(pixel_noise(FIXED, "noise", 0, ["a"], (1,), 1.0)[0, 0] / 255)
    assert np.isfinite(tails).all()
    assert -10 < tails[0] < -least
    assert least < tails[1] < 10
    assert tails[1] == -tails[0]
    assert tails[0] == pytest.approx(ndtri((word + 0.5) / 2**64), abs=1 / 255 if word else 0.1)


def test_a_copys_entropy_is_drawn_when_the_raw_digest_is_fixed(small_set: ImageSet, tmp_path, monkeypatch):
    # An attacker who learns the entropy as it is drawn, and changes the raw set then, is too late.
    path, read = tmp_path / "raw.npz", []
    save_npz(small_set, path)
    source = open_source(path)
    digest_of = type(source).digest.func
    monkeypatch.setattr(type(source).digest, "func", lambda own: read.append("digest") or digest_of(own))
    real = secrets.token_bytes
    monkeypatch.setattr(secrets, "token_bytes", lambda size: read.append("entropy") or real(size))
    made = make_copy(source, tmp_path / "copy.npz", 0.5, None, "os", 0)
    assert read.index("digest") < read.index("entropy")
    assert made["raw_digest"] == load(path).digest == small_set.digest
