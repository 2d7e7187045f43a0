"""Extractors: the published weights as their papers compute them, this project's own, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.extractors import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Bfloat16,
    CifarResNet,
    accelerated,
    features,
    load_extractor,
    require_fits,
)
from cleanlabel.models.training import as_tensor
from cleanlabel.models.weights import save_weights
from cleanlabel.sanitize.errors import InputError


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """uint8 (24, 32, 32, 3): blotches of colour, so that features differ."""
    blotches = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    return blotches.repeat(8, axis=1).repeat(8, axis=2)


def published(path: Path, blocks: int, classes: int = 10) -> Path:
    """Weights in the published layout: random, with BatchNorm statistics of random pixels."""
    torch.manual_seed(blocks)
    network, head = CifarResNet(blocks).train(), nn.Linear(64, classes)
    with torch.no_grad():
        for _ in range(10):
            network(2 * torch.rand(8, 3, 32, 32) - 1)
    tensors = network.state_dict() | {f"linear.{name}": tensor for name, tensor in head.state_dict().items()}
    save_file({name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}, path)
    return path


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory) -> Path:
    return published(tmp_path_factory.mktemp("extractor") / "resnet20.safetensors", 3)


def by_hand(tensors: dict[str, Tensor], pixels: Tensor, blocks: int) -> Tensor:
    """The logits of a published ResNet, written out from the tensors of its file."""

    def norm(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(tensors[f"{name}.{key}"] for key in keys))

    mean, deviation = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    x = functional.conv2d((pixels - mean) / deviation, tensors["conv1.weight"], padding=1)
    x = norm(x, "bn1").relu()
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = functional.conv2d(x, tensors[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = functional.conv2d(norm(out, f"{name}.bn1").relu(), tensors[f"{name}.conv2.weight"], padding=1)
            if stride == 2:
                zeros = torch.zeros(len(x), width // 4, x.shape[2] // 2, x.shape[3] // 2)
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (norm(out, f"{name}.bn2") + x).relu()
    pooled = functional.avg_pool2d(x, x.shape[3]).flatten(1)
    return functional.linear(pooled, tensors["linear.weight"], tensors["linear.bias"])


@pytest.mark.parametrize("blocks", [3, 9])
def test_published_weights_compute_what_their_paper_says(blocks, photographs, tmp_path):
    path = published(tmp_path / "weights.safetensors", blocks, classes=7)
    extractor = load_extractor(path)
    pixels = torch.from_numpy(photographs).permute(0, 3, 1, 2) / 255
    expected = by_hand(load_file(path), pixels, blocks)
    torch.testing.assert_close(extractor.head(features(extractor, photographs)), expected, atol=1e-4, rtol=1e-4)
    assert extractor.image_shape == (32, 32, 3)
    assert extractor.head.weight.shape == (7, 64)


@pytest.mark.parametrize("name", ["small-cnn", "mlp", "linear"])
@pytest.mark.parametrize("standardised", [False, True])
def test_features_of_our_own_weights_are_what_enters_their_last_layer(name, standardised, small_set, tmp_path):
    architecture = Architecture(name, (8, 8, 1), 3, 4, standardised)
    model = build(architecture).eval()
    save_weights(model, tmp_path / "own", architecture)
    extractor = load_extractor(tmp_path / "own")
    found = extractor.head(features(extractor, small_set.images))
    torch.testing.assert_close(found, model(as_tensor(small_set.images)))
    assert extractor.image_shape == (8, 8, 1)


def test_features_depend_on_no_other_image_and_leave_the_network_as_it_was(resnet20, photographs):
    extractor = load_extractor(resnet20)
    before = {name: tensor.clone() for name, tensor in extractor.network.state_dict().items()}
    together = features(extractor, photographs)
    torch.testing.assert_close(together[5:6], features(extractor, photographs[5:6]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, features(extractor, photographs, batch=7), atol=1e-5, rtol=1e-4)
    for name, tensor in extractor.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(p.requires_grad for p in (*extractor.network.parameters(), *extractor.head.parameters()))


def test_noised_images_are_not_clipped_before_the_network(resnet20, photographs):
    extractor = load_extractor(resnet20)
    floats = photographs.astype(np.float32) / 255
    torch.testing.assert_close(features(extractor, floats), features(extractor, photographs), atol=1e-4, rtol=1e-4)
    beyond = floats + np.float32(1.0)
    assert not torch.allclose(features(extractor, beyond), features(extractor, beyond.clip(0, 1)), atol=1e-2)


def test_bfloat16_agrees_with_its_float32_twin(resnet20, photographs):
    extractor = load_extractor(resnet20)
    slow = features(extractor, photographs)
    fast = features(replace(extractor, network=Bfloat16(extractor.network)), photographs)
    assert fast.dtype == torch.float32
    assert (fast - slow).norm() < 0.02 * slow.norm()
    best, second = extractor.head(slow).topk(2).values.T
    clear = best - second > 0.1  # a vote that bfloat16's rounding may turn is one on the brink
    assert clear.sum() > 6
    assert torch.equal(extractor.head(fast).argmax(dim=1)[clear], extractor.head(slow).argmax(dim=1)[clear])


def test_only_published_networks_are_made_faster_and_the_slow_one_stays(resnet20, photographs, tmp_path):
    architecture = Architecture("mlp", (8, 8, 1), 3, 4)
    save_weights(build(architecture), tmp_path / "own", architecture)
    own, extractor = load_extractor(tmp_path / "own"), load_extractor(resnet20)
    assert accelerated(own) is own
    before = features(extractor, photographs)
    accelerated(extractor)
    assert torch.equal(features(extractor, photographs), before)


def test_the_same_file_has_the_same_digest(resnet20, tmp_path):
    other = published(tmp_path / "other.safetensors", 1)
    assert load_extractor(resnet20).digest == load_extractor(resnet20).digest != load_extractor(other).digest


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.safetensors does not exist; give"):
        load_extractor(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04}\x94.", b"half"])
def test_a_damaged_file_is_refused(content, resnet20, tmp_path):
    path = tmp_path / "damaged"
    path.write_bytes(resnet20.read_bytes()[:50_000] if content == b"half" else content)
    with pytest.raises(InputError, match="damaged is not a readable safetensors file"):
        load_extractor(path)


@pytest.mark.parametrize("change", ["missing", "more", "other shape", "no head", "something else"])
def test_an_unknown_layout_is_refused(change, resnet20, tmp_path):
    tensors = load_file(resnet20)
    if change == "missing":
        del tensors["layer2.1.bn2.weight"]
    elif change == "more":
        tensors["layer4.0.conv1.weight"] = torch.zeros(1)
    elif change == "other shape":
        tensors["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    elif change == "no head":
        del tensors["linear.weight"]
    else:
        tensors = {"encoder.weight": torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "odd")
    with pytest.raises(InputError, match="odd holds neither a ResNet.* nor weights that this project wrote; choose"):
        load_extractor(tmp_path / "odd")


def test_images_of_another_size_are_refused_by_both_sizes(resnet20, photographs):
    extractor = load_extractor(resnet20)
    require_fits(extractor, (32, 32, 3))
    with pytest.raises(InputError, match="images are 8x16 with 1 channel, the extractor takes 32x32 with 3 channels"):
        require_fits(extractor, (16, 8, 1))
    with pytest.raises(InputError, match="images are 16x32 with 3 channels"):
        features(extractor, photographs[:, :, ::2])
