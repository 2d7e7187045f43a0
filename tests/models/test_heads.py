"""Linear heads: each held to scikit-learn's or to an analytic case."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from cleanlabel.models.heads import fit_head, fit_head_of_some
from cleanlabel.sanitize.errors import InputError

KINDS = ("mean", "direction", "lda", "ridge", "logistic")
CLASSES = 3


def clouds(spread: float, n: int = 120, d: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n features around the centres of three classes, as many of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(CLASSES, d, generator=torch.Generator().manual_seed(9)) + 5
    labels = torch.arange(n) % CLASSES
    return centres[labels] + spread * torch.randn(n, d, generator=generator), labels


def answers(head: nn.Linear, features: Tensor) -> np.ndarray:
    return head(features).argmax(dim=1).numpy()


def variance(features: Tensor) -> float:
    return float(features.numpy().astype(np.float64).var(axis=0).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_classes_apart_are_told_apart_and_the_head_is_the_same_every_time(kind):
    features, labels = clouds(0.5)
    fresh, truth = clouds(0.5, seed=1)
    head = fit_head(features, labels, CLASSES, kind, 0.1)
    assert (answers(head, fresh) == truth.numpy()).all()
    again = fit_head(features, labels, CLASSES, kind, 0.1)
    assert torch.equal(head.weight, again.weight)
    assert torch.equal(head.bias, again.bias)
    assert not head.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_the_features_does_not_matter(kind):
    features, labels = clouds(4.0)
    head, scaled = (fit_head(f, labels, CLASSES, kind, 0.1) for f in (features, 1000 * features))
    fresh, _ = clouds(4.0, seed=1)
    assert (answers(head, fresh) == answers(scaled, 1000 * fresh)).mean() > 0.99


def test_mean_is_the_nearest_class_mean():
    features, labels = clouds(4.0)
    fresh, _ = clouds(4.0, seed=1)
    expected = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(fresh.numpy())
    np.testing.assert_array_equal(answers(fit_head(features, labels, CLASSES, "mean", 1.0), fresh), expected)


def test_lda_tends_to_fishers_discriminant_and_to_the_nearest_mean():
    features, labels = clouds(4.0)
    features = features * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0])  # classes that are no balls
    fresh = clouds(4.0, seed=1)[0] * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0])
    fisher = LinearDiscriminantAnalysis(solver="lsqr").fit(features.numpy(), labels.numpy()).predict(fresh.numpy())
    free, held = (fit_head(features, labels, CLASSES, "lda", l2) for l2 in (1e-9, 1e6))
    np.testing.assert_array_equal(answers(free, fresh), fisher)
    nearest = answers(fit_head(features, labels, CLASSES, "mean", 1.0), fresh)
    np.testing.assert_array_equal(answers(held, fresh), nearest)
    assert (fisher != nearest).any()


def test_direction_does_not_ask_how_far_out_a_class_lies():
    features, labels = clouds(0.5)
    middle = torch.stack([features[labels == k].mean(dim=0) for k in range(CLASSES)]).mean(dim=0)
    shrunk = middle + (features - middle) * torch.tensor([0.2, 0.2, 0.2])[labels, None]
    fresh, _ = clouds(4.0, seed=1)
    one, other = (fit_head(f, labels, CLASSES, "direction", 1.0) for f in (features, shrunk))
    torch.testing.assert_close(one.weight, other.weight, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(answers(one, fresh), answers(other, fresh))


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_ridge_is_least_squares_on_one_hot_targets(l2):
    features, labels = clouds(4.0)
    head = fit_head(features, labels, CLASSES, "ridge", l2)
    expected = Ridge(alpha=l2 * variance(features) * len(features))
    expected.fit(features.numpy().astype(np.float64), np.eye(CLASSES)[labels.numpy()])
    np.testing.assert_allclose(head.weight, expected.coef_, atol=1e-6)
    np.testing.assert_allclose(head.bias, expected.intercept_, atol=1e-5)


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_logistic_minimises_the_cross_entropy(l2):
    features, labels = clouds(4.0)
    head = fit_head(features, labels, CLASSES, "logistic", l2)
    strength = l2 * variance(features) * len(features)
    expected = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=5000)
    expected.fit(features.numpy().astype(np.float64), labels.numpy())
    np.testing.assert_allclose(head.weight, expected.coef_, atol=1e-3)
    shift = head.bias.numpy() - expected.intercept_
    np.testing.assert_allclose(shift, shift.mean(), atol=1e-2)  # a constant for all classes decides nothing


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_head_goes_from_the_data_to_its_prior_as_l2_grows(kind):
    features, labels = clouds(4.0)
    fresh, _ = clouds(4.0, seed=1)
    # a prior that is right about the features, and wrong about which class is which
    prior = fit_head(features, (labels + 1) % CLASSES, CLASSES, "ridge", 0.1)
    turned = nn.Linear(6, CLASSES)
    with torch.no_grad():
        turned.weight.copy_(fit_head(features, labels, CLASSES, "lda", 0.1).weight)
        turned.bias.zero_()
    free = fit_head(features, labels, CLASSES, kind, 1e-6)
    np.testing.assert_allclose(fit_head(features, labels, CLASSES, kind, 1e-6, prior)(fresh), free(fresh), atol=0.02)
    held = fit_head(features, labels, CLASSES, kind, 1e6, turned)
    centred = turned.weight - turned.weight.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(held.weight.flatten(), centred.flatten(), dim=0)
    assert cosine > 0.999


def test_the_caller_may_run_without_gradients():
    features, labels = clouds(0.5)
    with torch.inference_mode():
        found = fit_head(features * 1.0, labels, CLASSES, "ridge", 0.1)
    assert found.weight.shape == (CLASSES, 6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "forest"}, "head='forest' is unknown; choose one of mean, direction, lda, ridge, logistic"),
        ({"l2": 0.0}, "l2=0.0 is not a strength of regularisation; choose a number above 0"),
        ({"l2": float("nan")}, "l2=nan is not a strength of regularisation"),
        ({"classes": 4}, "class 3 has no image"),
        ({"classes": 2}, "class 2 .* is not among the 2 classes"),
        ({"prior": nn.Linear(5, 3)}, r"a prior of shape \(3, 5\) does not fit a ridge head of shape \(3, 6\)"),
        ({"kind": "mean", "prior": nn.Linear(6, 3)}, "does not fit a mean head .* to ridge or logistic, or none"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(change, sentence):
    features, labels = clouds(0.5)
    arguments = {"classes": CLASSES, "kind": "ridge", "l2": 0.1} | change
    with pytest.raises(InputError, match=sentence):
        fit_head(features, labels, **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_some_classes_is_theirs_alone_and_never_chooses_another(kind):
    features, labels = _some_of(0.5)
    some = fit_head_of_some(features, labels, CLASSES, kind, 0.1)
    alone = fit_head(features, torch.searchsorted(torch.unique(labels), labels), 2, kind, 0.1)
    np.testing.assert_array_equal(answers(some, features), torch.unique(labels).numpy()[answers(alone, features)])
    assert some(features).isfinite().all()
    one = labels == labels[0]
    assert (answers(fit_head_of_some(features[one], labels[one], CLASSES, kind, 0.1), features) == int(labels[0])).all()


def test_a_head_of_all_classes_is_the_ordinary_one_and_one_of_none_is_refused():
    features, labels = clouds(0.5)
    some, plain = (
        fit_head_of_some(features, labels, CLASSES, "lda", 0.1),
        fit_head(features, labels, CLASSES, "lda", 0.1),
    )
    assert torch.equal(some.weight, plain.weight)
    with pytest.raises(ValueError, match="no image"):
        fit_head_of_some(features[:0], labels[:0], CLASSES, "lda", 0.1)


def _some_of(spread: float) -> tuple[Tensor, Tensor]:
    """Clouds of the first class and of the last."""
    features, labels = clouds(spread)
    kept = (labels == 0) | (labels == CLASSES - 1)
    return features[kept], labels[kept]
