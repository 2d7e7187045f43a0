"""Small inputs for every benchmark: a project after its `denoiser` stage, published sets, networks, poisons."""

import importlib
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from tiny import save_tiny_denoiser
from torch import nn

from cleanlabel.models.extractors import CifarResNet
from cleanlabel.sanitize import ingest, pretrain

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "ingest": {"trusted": 200, "raw": 150, "test": 60},
    "denoiser": {"channels": [8, 16], "steps": 3, "batch": 8},
    "train": {"width": 16, "epochs": 2},
}
TRAIN = {"cifar10": 1000, "fashion-mnist": 20_700}
TEST = 400
"""Images of the published sets."""


def make_inputs(root: Path) -> dict[str, Path]:
    """Fill the working directory `root` with all of them; where each is, by the name that an argument has for it."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, changes in SMALL.items():
        params[section].update(changes)
    yaml.dump(params, root / "params.yaml")
    ingest.main()
    pretrain.main()
    places = {name: root / name for name in ("published", "setups.json", "votes.npy", "poisons")}
    save_cifar10(places["published"])
    save_fashion_mnist(places["published"])
    save_setups(places["setups.json"])
    np.save(places["votes.npy"], np.random.default_rng(0).integers(0, 10, (120, 60)), allow_pickle=False)
    save_poisons(places["poisons"])
    places["denoiser"] = root / "data" / "denoiser"
    places["cifar-denoiser"] = save_tiny_denoiser(root / "cifar-denoiser", 32, 3)
    places["fashion-denoiser"] = save_tiny_denoiser(root / "fashion-denoiser", 28, 1)
    for name, blocks in (("extractor", 1), ("deeper", 2)):
        places[name] = save_extractor(root / f"{name}.safetensors", blocks)
    return places


def coloured(count: int, shape: tuple[int, int, int], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, h, w, c) that any classifier tells apart, ten classes in turn: a brightness and a bar for each."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = generator.integers(0, 40, (count, *shape), dtype=np.uint8)
    for label in range(10):
        images[labels == label, 2 * label : 2 * label + 5] += np.uint8(200)
    return images, labels


def save_cifar10(root: Path) -> None:
    """CIFAR-10's files as published."""
    pickles = importlib.import_module("pickle")  # to write one as the publishers did; nothing here reads one
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate(("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))):
        images, labels = coloured(TEST if name == "test_batch" else TRAIN["cifar10"] // 5, (32, 32, 3), number)
        flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / name).write_bytes(pickles.dumps({"labels": labels.tolist(), "data": flat}, protocol=2))


def save_fashion_mnist(root: Path) -> None:
    """Fashion-MNIST's files as published, not packed."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for number, (stem, count) in enumerate((("train", TRAIN["fashion-mnist"]), ("t10k", TEST))):
        images, labels = coloured(count, (28, 28, 1), number)
        for name, values in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / f"{stem}-{name}-ubyte").write_bytes(head + values.tobytes())


def save_setups(path: Path) -> None:
    """The public benchmark's form: targets of the test split, bases of the training split."""
    bases = list(range(1, 251, 10))  # class 1
    path.write_text(
        json.dumps(
            [
                {"target_class": 0, "target_index": target, "base_class": 1, "base_indices": bases}
                for target in (0, 10, 20)
            ]
        )
    )


def save_extractor(path: Path, blocks: int) -> Path:
    """A network of the form that is published for CIFAR-10, with random weights."""
    torch.manual_seed(blocks)
    network, head = CifarResNet(blocks), nn.Linear(64, 10)
    tensors = network.state_dict() | {f"linear.{name}": value for name, value in head.state_dict().items()}
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def save_poisons(drill: Path) -> None:
    """What a drill leaves of one target, for the digits' denoiser."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 200, (4, 8, 8, 1), dtype=np.uint8)
    (drill / "target-0").mkdir(parents=True)
    np.savez(drill / "target-0" / "poisons.npz", images=base + np.uint8(16), base=base)
