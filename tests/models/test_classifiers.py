"""Networks by name: what they take, what they end in, and that a seed keeps its weights."""

import hashlib

import pytest
import torch
from torch import nn

from cleanlabel.models.classifiers import Architecture, build, features_of
from cleanlabel.models.weights import load_weights, save_weights
from cleanlabel.sanitize.errors import InputError

WIDTHS = {"linear": 1, "mlp": 4, "small-cnn": 4, "fast-cifar": 4, "resnet18": 64, "vgg11": 8, "mobilenet-v2": 8}
LEAST_SIDES = {"fast-cifar": 9, "resnet18": 8, "vgg11": 32, "mobilenet-v2": 8}


@pytest.mark.parametrize(
    ("name", "standardised", "digest"),
    [
        ("linear", False, "c3c2d7045fc3d767"),
        ("linear", True, "ab645f7cd6fb922b"),
        ("mlp", False, "73853fcdd1f7520f"),
        ("mlp", True, "a218dc87f45881c2"),
        ("small-cnn", False, "ca0858c92e721b1a"),
        ("small-cnn", True, "292a81bb45219055"),
    ],
)
def test_a_seed_keeps_its_weights_from_version_to_version(name, standardised, digest):
    torch.manual_seed(0)
    state = build(Architecture(name, (8, 8, 3), 5, 4, standardised)).state_dict()
    content = b"".join(key.encode() + tensor.numpy().tobytes() for key, tensor in state.items())
    assert hashlib.sha256(content).hexdigest()[:16] == digest


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", WIDTHS)
def test_a_network_ends_in_its_linear_head_and_comes_back_from_disk(name, channels, tmp_path):
    side = LEAST_SIDES.get(name, 7)
    architecture = Architecture(name, (side, side + 1, channels), 7, WIDTHS[name], standardised=channels == 3)
    model = build(architecture)
    pixels = torch.rand(4, channels, side, side + 1)
    model(pixels)  # in training mode: norm layers gather statistics
    logits = model.eval()(pixels)
    assert logits.shape == (4, 7)
    assert isinstance(model[-1], nn.Linear)
    assert sum(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()) == 0
    torch.testing.assert_close(model[-1](features_of(model)(pixels)), logits, atol=0, rtol=0)
    save_weights(model, tmp_path / "w", architecture)
    torch.testing.assert_close(load_weights(tmp_path / "w")(pixels), logits, atol=0, rtol=0)


@pytest.mark.parametrize(("name", "least"), LEAST_SIDES.items())
def test_images_that_are_too_small_are_refused(name, least):
    with pytest.raises(InputError, match=f"{least}x{least - 1} pixels are too small for {name}, .* of {least} and"):
        build(Architecture(name, (least, least - 1, 3), 2, WIDTHS[name]))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2"])
def test_a_width_that_is_not_to_be_had_is_refused(name):
    with pytest.raises(InputError, match=f"width=12 is not possible with {name}.* set train.width"):
        build(Architecture(name, (32, 32, 3), 2, 12))


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'resnet' is not one of linear, mlp, small-cnn, fast-cifar, resnet18, vgg11"):
        build(Architecture("resnet", (32, 32, 3), 2, 64))


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 11_173_962), ("vgg11", 9_231_114), ("mobilenet-v2", 2_236_682)]
)
def test_the_published_networks_have_their_published_size(name, size):
    # as they stand for 32x32 images and 10 classes
    model = build(Architecture(name, (32, 32, 3), 10, 32 if name == "mobilenet-v2" else 64))
    assert sum(parameter.numel() for parameter in model.parameters()) == size


def test_a_head_of_its_own_shares_the_features():
    model = build(Architecture("small-cnn", (8, 8, 1), 3, 4))
    assert features_of(model)[0].weight is model[0].weight
