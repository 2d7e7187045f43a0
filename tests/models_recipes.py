"""Recipes that train in a blink."""

from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import Plan, noise_distance_of, recipe_of
from cleanlabel.sanitize.noise import NOISE_STREAM

QUICK = TrainParams(
    architecture="mlp",
    width=8,
    mode="scratch",
    epochs=2,
    batch=8,
    learning_rate=2e-3,
    weight_decay=0.0,
    label_smoothing=0.0,
    shift=0,
    flip=False,
    normalise="constants",
    warm_epochs=0,
    warm_on="copy",
    initial_weights=None,
    initial_provenance=None,
    head="ridge",
    head_l2=0.01,
    head_prior=False,
)

PLAN = Plan(
    m=100,
    selection=0,
    sigma=1.0,
    test_sigma=0.0,
    raw_digest="raw",
    test_digest="test",
    denoiser_digest="denoiser",
    denoiser_state="disjoint",
    initial_digest=None,
    initial_state=None,
    recipe=recipe_of(QUICK),
    classes=3,
    n_test=50,
    alpha=0.001,
    method="binary",
    simultaneous=False,
    stopping="none",
    looks=(),
    shares=(),
    batch_of_draws=5,
    entropy_spec="os",
    code_digest="code",
    noise_stream=NOISE_STREAM,
    noise_distance=noise_distance_of(150, (8, 8, 1), 0.5),
    raw_content="content",
)
"""A plan of such models."""
