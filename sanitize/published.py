"""Published image sets by name, read from the files that torchvision downloads, without unpickling anything."""

import gzip
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def read_published(name: str, root: Path, split: str) -> tuple[Pixels, Labels, tuple[str, ...]]:
    """(images uint8 (n, h, w[, c]), labels, class names) of a set's `train` or `test` split under torchvision's `root`.

    InputError if the name is unknown, or a file is missing or has unexpected content.
    """
    if name not in PUBLISHED:
        raise InputError(f"{name!r} is not a known published set; choose one of {', '.join(PUBLISHED)}")
    if split not in ("train", "test"):
        raise InputError(f"split={split!r} is neither train nor test")
    try:
        images, labels, classes = PUBLISHED[name](root, split)
        counts = len(images), len(labels)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} does not exist; let torchvision download {name} into {root} where there is a network"
        ) from error
    except Exception as error:  # unpackers raise anything on damaged bytes: zlib.error, IndexError, struct.error, ..
        words = str(error) or type(error).__name__
        raise InputError(f"the files of {name} under {root} are damaged ({words}); download them again") from error
    if counts[0] != counts[1] or not counts[0] or labels.ndim != 1:
        raise InputError(f"{name} under {root} has {counts[0]} images and {counts[1]} labels; download it again")
    return images, labels.astype(np.int64), classes


def _cifar10(root: Path, split: str) -> tuple[Pixels, Labels, tuple[str, ...]]:
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [_cifar_batch(root / "cifar-10-batches-py" / name, "labels") for name in names]
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]), classes


def _cifar100(root: Path, split: str) -> tuple[Pixels, Labels, tuple[str, ...]]:
    images, labels = _cifar_batch(root / "cifar-100-python" / split, "fine_labels")
    return images, labels, tuple(f"{i:02d}" for i in range(100))


def _cifar_batch(path: Path, key: str) -> tuple[Pixels, Labels]:
    """The published files are pickles. Their instructions are read here as data, and none is executed."""
    pixels, labels, current = b"", [], ""
    for kind, value in _instructions(path):
        if kind in ("SHORT_BINSTRING", "SHORT_BINUNICODE", "BINUNICODE") and len(value) < 32:
            current = value
        elif kind in ("BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE") and len(value) > len(pixels):
            pixels = value.encode("latin-1") if isinstance(value, str) else value
        elif kind == "BININT1" and current == key:
            labels.append(value)
    if not labels or len(pixels) != 3072 * len(labels):
        raise ValueError(f"{path.name} holds {len(pixels)} bytes of pixels for {len(labels)} labels")
    planes = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


def _instructions(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as stream:
        for opcode, value, _ in pickletools.genops(stream):
            yield opcode.name, value


def _mnist(folder: str) -> Callable[[Path, str], tuple[Pixels, Labels, tuple[str, ...]]]:
    def read(root: Path, split: str) -> tuple[Pixels, Labels, tuple[str, ...]]:
        stem = root / folder / "raw" / ("train" if split == "train" else "t10k")
        images, labels = _idx(Path(f"{stem}-images-idx3-ubyte")), _idx(Path(f"{stem}-labels-idx1-ubyte"))
        return images, labels.astype(np.int64), tuple(map(str, range(10)))

    return read


def _idx(path: Path) -> NDArray[np.uint8]:
    packed = path.with_name(f"{path.name}.gz")
    content = gzip.decompress(packed.read_bytes()) if packed.is_file() and not path.is_file() else path.read_bytes()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is not an idx file of bytes")
    depth = content[3]
    shape = np.frombuffer(content, ">u4", depth, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * depth).reshape(shape.astype(np.int64))


def _svhn(root: Path, split: str) -> tuple[Pixels, Labels, tuple[str, ...]]:
    from scipy.io import loadmat

    content = loadmat(root / f"{split}_32x32.mat")
    return content["X"].transpose(3, 0, 1, 2), content["y"].ravel() % 10, tuple(map(str, range(10)))


PUBLISHED: dict[str, Callable[[Path, str], tuple[Pixels, Labels, tuple[str, ...]]]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "fashion-mnist": _mnist("FashionMNIST"),
    "mnist": _mnist("MNIST"),
    "svhn": _svhn,
}
