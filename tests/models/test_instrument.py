"""The public part of a bounded-influence head, and the draws that use it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import QUICK
from tiny import FIXED
from torch import nn

from cleanlabel.models.draw import make_batch, make_draw
from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.instrument import (
    Features,
    cosine,
    load_features,
    load_instrument,
    make_instrument,
    save_features,
    save_instrument,
)
from cleanlabel.models.materials import Materials
from cleanlabel.models.public_part import PUBLIC_ENTROPY, fitted, sanitized_features, trusted_features
from cleanlabel.models.start import Start
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.noise import pixel_noise
from cleanlabel.sanitize.sanitizer import sanitize

SETS = digits(300, 200, 0)
RECIPE = QUICK.model_copy(update={"mode": "transfer", "head": "bounded-influence", "initial_weights": "elsewhere"})


def made(seed: int = 0, **changes: object):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(200, 5))
    psi = 0.3 * phi + rng.normal(size=(200, 5)) * 0.5
    return make_instrument(psi, phi, **changes), psi, phi


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()).eval().requires_grad_(requires_grad=False)
    return Extractor(network, nn.Linear(16, 10), (8, 8, 1), "elsewhere")


@pytest.fixture(scope="module")
def materials(extractor) -> Materials:
    psi, phi = trusted_features(extractor, SETS["trusted"], 0.5, None)
    asked = SETS["test"].take(np.arange(30))
    return Materials(
        SETS["raw"], asked, 0.5, None, RECIPE, 3, start=Start(extractor=extractor, instrument=make_instrument(psi, phi))
    )


def test_the_weight_is_the_formula():
    instrument, psi, phi = made(ridge=0.25)
    p, f = psi - psi.mean(axis=0), phi - phi.mean(axis=0)
    c = p.T @ p / 200
    c += 1e-6 * np.trace(c) / 5 * np.eye(5)
    x = p.T @ f / 200
    inner = x.T @ np.linalg.inv(c) @ x
    expected = np.linalg.inv(c) @ x @ np.linalg.inv(inner + 0.25 * np.trace(inner) / 5 * np.eye(5))
    np.testing.assert_allclose(instrument.weight, expected, rtol=1e-8)


@pytest.mark.parametrize("sides", ["one", "two"])
def test_no_image_has_more_influence_than_the_bound(sides):
    instrument, _, phi = made(sides=sides)
    rows = torch.tensor(np.vstack([1e4 * phi[:5], -1e4 * phi[:5], np.full((1, 5), np.nan), np.full((1, 5), np.inf)]))
    found = instrument.influences(rows, instrument.directions(torch.tensor(phi[:7])))
    assert found.min() == (-STEPS if sides == "two" else 0)
    assert found.max() == STEPS
    assert (found == np.rint(found)).all()
    assert (found[10] == 0).all()  # features that are no numbers say nothing


def test_the_clip_is_the_quantile_of_trusted_influences():
    instrument, psi, phi = made(quantile=0.7)
    u = instrument.weight @ (phi[:3] - phi.mean(axis=0)).T
    high = np.quantile(np.abs((psi - psi.mean(axis=0)).astype(np.float32) @ u), 0.7, axis=0)
    found = instrument.directions(torch.tensor(phi[:3]))
    np.testing.assert_allclose(found[:-1], u / high, rtol=1e-5)
    assert (found[-1] == 0).all()


def test_below_the_threshold_an_image_says_nothing():
    instrument, psi, phi = made(threshold=0.6, quantile=0.9)
    along = (
        (psi - psi.mean(axis=0)).astype(np.float32).astype(np.float64) @ instrument.weight @ (phi[3] - phi.mean(axis=0))
    )
    low, high = np.quantile(along, [0.6, 0.9])
    rows = torch.tensor(psi)
    found = instrument.influences(rows, instrument.directions(torch.tensor(phi[3:4])))[:, 0]
    np.testing.assert_allclose(found, np.clip((along - low) / (high - low), 0, 1) * STEPS, atol=2)
    assert np.mean(found == 0) == pytest.approx(0.6, abs=0.01)


def test_sums_are_those_of_one_image_after_the_other_in_any_order():
    instrument, psi, phi = made()
    labels = np.arange(200) % 3
    copy, asked = Features(torch.tensor(psi)), torch.tensor(phi[:6])
    sums = instrument.class_sums(copy, labels, 3, asked)
    one_by_one = np.zeros((6, 3), dtype=np.int64)
    directions = instrument.directions(asked)
    for i in range(200):
        one_by_one[:, labels[i]] += instrument.influences(copy.rows[i : i + 1], directions)[0].astype(np.int64)
    assert np.abs(sums - one_by_one).max() <= 200  # the last bit of a float32 product, a step an image at most
    order = np.random.default_rng(1).permutation(200)
    shuffled = instrument.class_sums(Features(torch.tensor(psi[order])), labels[order], 3, asked)
    assert np.abs(sums - shuffled).max() <= 200


def test_an_instrument_and_features_are_read_back_to_the_bit(tmp_path):
    for name, instrument in (("a", made()[0]), ("b", cosine("two")), ("c", made(threshold=0.5)[0])):
        save_instrument(instrument, tmp_path / name)
        again = load_instrument(tmp_path / name, instrument.digest)
        assert again.to_bytes() == instrument.to_bytes()
    copy = Features(torch.randn(4, 3))
    save_features(copy, tmp_path / "rows")
    assert torch.equal(load_features(tmp_path / "rows").rows, copy.rows)


def test_another_instrument_or_a_damaged_file_is_refused(tmp_path):
    instrument = made()[0]
    save_instrument(made(1)[0], tmp_path / "other")
    with pytest.raises(InputError, match="its digest differs"):
        load_instrument(tmp_path / "other", instrument.digest)
    (tmp_path / "rows").write_bytes(b"nothing")
    with pytest.raises(InputError, match="does not hold the features of a draw"):
        load_features(tmp_path / "rows")


def test_a_recipe_s_params_are_those_of_its_instrument():
    _, psi, phi = made()
    recipe = RECIPE.model_copy(
        update={"influence_ridge": 2.0, "influence_clip": 0.9, "influence_sides": "two", "influence_threshold": None}
    )
    assert fitted(recipe, psi, phi).digest == make_instrument(psi, phi, ridge=2.0, quantile=0.9, sides="two").digest


def test_the_instrumental_form_needs_trusted_images():
    with pytest.raises(InputError, match="needs trusted images, and there are 1"):
        make_instrument(np.zeros((1, 3)), np.zeros((1, 3)))


def test_the_noise_on_trusted_images_is_of_a_role_of_its_own(extractor):
    trusted = SETS["trusted"]
    public = sanitized_features(extractor, trusted, 0.5, None, 0)
    assert not np.array_equal(public, sanitized_features(extractor, trusted, 0.5, None, 1))
    of_draws = sanitize(trusted, 0.5, None, PUBLIC_ENTROPY, 0)
    assert not np.array_equal(public, features(extractor, of_draws).half().float().numpy())
    ids, shape = trusted.ids[:4], (8, 8, 1)
    roles = [pixel_noise(FIXED, role, 0, ids, shape, 0.5).tobytes() for role in ("noise", "test-noise", "public-noise")]
    assert len(set(roles)) == 3


def test_a_draw_answers_with_sums_and_keeps_its_features(materials):
    one = make_draw(materials, FIXED, 1)
    assert one.votes.shape == (30, 10)
    assert one.model.rows.shape == (200, 16)
    assert one.model.rows.dtype == torch.float16
    sums = materials.start.instrument.class_sums(one.model, SETS["raw"].labels, 10, materials.test_inputs)
    np.testing.assert_array_equal(one.votes, sums)


def test_a_batch_makes_the_same_draws_as_one_at_a_time(materials):
    for made in filled(make_batch(materials, FIXED, range(3))):
        alone = make_draw(materials, FIXED, made.draw)
        np.testing.assert_array_equal(made.votes, alone.votes)
        assert (made.seal, made.copy_sha256) == (alone.seal, alone.copy_sha256)


def test_an_image_that_changes_moves_only_its_own_class_s_sum_and_by_no_more_than_the_bound(materials):
    raw = SETS["raw"]
    images = raw.images.copy()
    images[17] = 255 - images[17]
    changed = replace(materials, raw=replace(raw, images=images))
    before, after = (make_draw(one, FIXED, 0).votes for one in (materials, changed))
    own = raw.labels[17]
    assert (np.delete(before, own, axis=1) == np.delete(after, own, axis=1)).all()
    assert 0 < np.abs(before - after)[:, own].max() <= STEPS


def test_sums_know_the_digits(materials):
    sums = sum(made.votes for made in make_batch(materials, FIXED, range(3)))
    assert np.mean(sums.argmax(axis=1) == materials.test.labels) > 0.3


def test_without_noise_a_copy_is_the_set_itself(materials):
    plain = replace(materials, sigma=0.0)
    one, other = (make_draw(plain, FIXED, draw) for draw in (0, 1))
    np.testing.assert_array_equal(one.votes, other.votes)
