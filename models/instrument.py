"""The influences of a bounded-influence head: how much one noised training image counts for one test input.

    k_t = clip( u_t . (psi(image) - psi_0) / hi_t, lo, 1 ),   u_t = weight (phi(t) - phi_0),   lo = 0 or -1,

or, with a threshold, k_t = clip( (u_t . (psi - psi_0) - low_t) / (hi_t - low_t), 0, 1 ): then an image counts for an
input only if it lies far in its direction. Most classes then have a mean near 0, where moved images change little. All
influences are whole steps of 1/STEPS, so that sums over images are exact in any order. psi: the frozen extractor's
features of the sanitized image, in float16; phi: those of the clean test input; hi_t: a quantile of
|u_t . (psi - psi_0)| over trusted images; with a threshold, hi_t and low_t are quantiles of u_t . (psi - psi_0) itself.
Everything except psi(image) is *public*: fixed before the raw set, from trusted images and public noise.
`models.influence` certifies sums of such influences.

The weight is an instrumental-variables estimate (docs/explanation/bounded-influence.md): with C = E[psi psi'] and
X = E[psi phi'] over trusted images, centred,

    weight = C^-1 X (X' C^-1 X + lambda I)^-1,   lambda in units of the mean eigenvalue of X' C^-1 X.

On average it undoes the effect of noise and denoising on the features. Labels of trusted images are not used. Without
trusted images, use the cosine form: u_t = phi(t) / |phi(t)|, psi scaled to norm 1, hi_t = 1.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.sums import STEPS, Sides, Sums
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing

Form = Literal["instrumental", "cosine"]
FORMAT = "cleanlabel-instrument/1"
ROWS = 2048
"""The number of images whose influences are in memory at once."""
MOST_SAMPLED = 4096
"""The number of trusted features kept, which give hi_t for each test input."""
RIDGE = 1e-6
"""The share of C's mean eigenvalue that is added to C, so that C has an inverse if some features never vary."""


class Features(nn.Module):
    """A bounded-influence draw's substitute for a network: the features of its sanitized copy, float16 (n, d)."""

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows.to(torch.float16))


@dataclass(frozen=True, eq=False)
class Instrument:
    """The public part of a bounded-influence head.

    weight float64 (d, d), psi_0 and phi_0 float64 (d,): as above; sample float32 (s, d): psi - psi_0 of trusted images;
    quantile: the quantile of |u_t . sample| that gives hi_t; threshold: the quantile of u_t . sample that gives low_t,
    if any. The cosine form has neither arrays nor a threshold.
    """

    form: Form
    sides: Sides
    quantile: float
    weight: NDArray[np.float64] | None = None
    psi_0: NDArray[np.float64] | None = None
    phi_0: NDArray[np.float64] | None = None
    sample: NDArray[np.float32] | None = None
    threshold: float | None = None

    @property
    def low(self) -> int:
        """lo, in steps."""
        return -STEPS if self.sides == "two" else 0

    def directions(self, asked: Tensor) -> NDArray[np.float32]:
        """The directions of test inputs with the clean features `asked` (n, d): float32 (d + 1, n).

        They are u_t / (hi_t - low_t), and -low_t / (hi_t - low_t) in the last row. Without a threshold low_t is 0.
        """
        phi = asked.double().numpy()
        if self.weight is None or self.phi_0 is None or self.sample is None:
            return np.vstack([_unit(phi).T, np.zeros(len(phi))]).astype(np.float32)
        u = self.weight @ (phi - self.phi_0).T
        along = self.sample.astype(np.float64) @ u
        if self.threshold is None:
            low, high = np.zeros(len(phi)), np.quantile(np.abs(along), self.quantile, axis=0)
        else:
            low, high = np.quantile(along, (self.threshold, self.quantile), axis=0)
        span = np.maximum(high - low, np.finfo(np.float32).tiny)
        return np.asarray(np.vstack([u, -low]) / span, dtype=np.float32)

    def influences(self, rows: Tensor, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """k_t of images with the features `rows` (n, d), in steps: whole numbers, (n, n_test)."""
        psi = rows.float().numpy()
        psi = _unit(psi) if self.psi_0 is None else (psi - self.psi_0).astype(np.float32)
        with np.errstate(invalid="ignore"):
            raw = (psi.astype(np.float32) @ directions[:-1] + directions[-1]) * STEPS
        # an image with NaN features has no influence
        return np.rint(np.clip(np.nan_to_num(raw, nan=0.0, posinf=STEPS, neginf=self.low), self.low, STEPS))

    def class_sums(self, copy: Features, labels: NDArray[np.int64], classes: int, asked: Tensor) -> Sums:
        """Each class's sum of influences on each test input, in steps: int64 (n_test, K)."""
        directions = self.directions(asked)
        sums = np.zeros((directions.shape[1], classes), dtype=np.float64)  # exact: far below 2^53
        for start in range(0, len(labels), ROWS):
            rows = slice(start, start + ROWS)
            found = self.influences(copy.rows[rows], directions).astype(np.float64)
            for label in np.unique(labels[rows]):
                sums[:, label] += found[labels[rows] == label].sum(axis=0)
        return sums.astype(np.int64)

    def to_bytes(self) -> bytes:
        """The instrument as the bytes of a safetensors file; the same instrument gives the same bytes."""
        arrays = {name: value for name in ARRAYS if (value := getattr(self, name)) is not None}
        facts = {"form": self.form, "sides": self.sides, "quantile": self.quantile, "threshold": self.threshold}
        return safetensors.numpy.save(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()} or {"none": np.zeros(1)},
            metadata={FORMAT: json.dumps(facts, sort_keys=True)},
        )

    @property
    def digest(self) -> str:
        """sha256 of its bytes, by which a plan identifies it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


ARRAYS = ("weight", "psi_0", "phi_0", "sample")


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def make_instrument(
    psi: NDArray[np.floating[Any]],
    phi: NDArray[np.floating[Any]],
    *,
    ridge: float = 0.5,
    quantile: float = 0.8,
    sides: Sides = "one",
    threshold: float | None = None,
) -> Instrument:
    """The instrument from trusted images' features: psi (s, d) of sanitized ones, phi (s, d) of the same ones clean.

    ridge: lambda; threshold: below `quantile`, and only with one side. The rows may contain several copies of an image.
    InputError for fewer than two images.
    """
    if len(psi) < 2 or psi.shape != phi.shape:
        raise InputError(
            f"the instrumental form needs trusted images, and there are {len(psi)}; add some under trusted/, or set "
            "train.influence_form: cosine"
        )
    psi_0, phi_0 = psi.mean(axis=0, dtype=np.float64), phi.mean(axis=0, dtype=np.float64)
    p, f = psi.astype(np.float64) - psi_0, phi.astype(np.float64) - phi_0
    d = p.shape[1]
    c = p.T @ p / len(p)
    c += max(RIDGE * np.trace(c) / d, np.finfo(np.float64).tiny) * np.eye(d)
    x = p.T @ f / len(p)
    first = np.linalg.solve(c, x)
    explained = x.T @ first
    held = max(ridge * np.trace(explained) / d, np.finfo(np.float64).tiny)
    weight = np.linalg.solve(explained + held * np.eye(d), first.T).T
    sample = p[:: -(-len(p) // MOST_SAMPLED)].astype(np.float32)
    return Instrument("instrumental", sides, quantile, weight, psi_0, phi_0, sample, threshold)


def cosine(sides: Sides = "one") -> Instrument:
    """The form without trusted images."""
    return Instrument("cosine", sides, 1.0)


def save_features(copy: Features, path: Path) -> None:
    """Write a draw's features as safetensors; `load_features` reads back the same bits."""
    with replacing(path) as scratch:
        scratch.write_bytes(safetensors.numpy.save({"rows": copy.rows.cpu().numpy()}))


def load_features(path: Path) -> Features:
    """The features in a file. InputError if it is damaged or holds something else."""
    try:
        (rows,) = (archive := safetensors.numpy.load(path.read_bytes())).values()
        if "rows" not in archive or rows.dtype != np.float16 or rows.ndim != 2:
            raise ValueError(f"it holds {rows.dtype} of shape {rows.shape}")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} does not hold the features of a draw ({error}); download the model again") from error
    return Features(torch.from_numpy(rows))


def save_instrument(instrument: Instrument, path: Path) -> None:
    """Write an instrument; `load_instrument` reads back the same bits."""
    with replacing(path) as scratch:
        scratch.write_bytes(instrument.to_bytes())


def load_instrument(path: Path, digest: str) -> Instrument:
    """The instrument with this digest. InputError if the file is missing, damaged or another instrument's."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its digest differs")
        with safetensors.safe_open(path, framework="numpy") as archive:
            facts = json.loads((archive.metadata() or {})[FORMAT])
        arrays = safetensors.numpy.load(content)
        return Instrument(**facts, **{name: arrays[name] for name in ARRAYS if name in arrays})
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not the planned instrument ({error}); restore it, or plan a new ensemble"
        ) from error
