"""Our figures beside what the paper says with Figure 1: certified accuracy, noise removed and noise left in."""

from dataclasses import dataclass
from typing import Any

from benchmarks.common.record import RESULTS
from benchmarks.paper.ours import read
from cleanlabel.models.rounding import exact

RADII = ("0", "0.1", "0.25", "0.5", "1", "2")
WAYS = ("denoised", "noise only")


@dataclass(frozen=True)
class Curve:
    """Certified accuracy at some of RADII, for both ways where both were measured; vote: accuracy of the ensemble."""

    setup: str
    source: str
    sigma: str
    m: int
    certified: dict[str, dict[str, float]]
    vote: dict[str, float]


def curves(scale: str) -> list[Curve]:
    """Every ensemble of this scale; none where nothing has been measured."""
    if scale == "gpu-full":
        return [
            _of_radii("CIFAR-10 from scratch", "cifar_models.json", sigma, content, {"denoised": row})
            for content in [read(RESULTS / "cifar_models.json")]
            for sigma, row in content.get("sigma", {}).items()
        ]
    return [*_digits(), *_fashion(), *_transfer()]


def _digits() -> list[Curve]:
    content = read(RESULTS / "ensemble.json")
    certified = {way: content["certified"][way][str(content["m"])] for way in WAYS}
    return [Curve("digits, MLP from scratch", "ensemble.json", f"{content['sigma']:g}", content["m"], certified, {})]


def _fashion() -> list[Curve]:
    content = read(RESULTS / "fashion.json")
    found = []
    for sigma in ("0.5", "1"):
        rows = {way: content["rows"][f"{way}, {sigma}"] for way in WAYS}
        votes = {way: row["vote"] for way, row in rows.items()}
        certified = {way: row["certified"] for way, row in rows.items()}
        found.append(Curve("Fashion-MNIST, MLP from scratch", "fashion.json", sigma, content["m"], certified, votes))
    return found


def _transfer() -> list[Curve]:
    content = read(RESULTS / "transfer.json")
    return [
        _of_radii(
            f"CIFAR-10, {kind} ResNet-20, LDA",
            "transfer.json",
            sigma,
            content,
            {way: content["rows"][sigma][f"{way} | {kind} | lda | all"] for way in WAYS},
        )
        for kind in ("frozen", "distilled")
        for sigma in content["rows"]
    ]


def _of_radii(setup: str, source: str, sigma: str, content: dict[str, Any], rows: dict[str, Any]) -> Curve:
    radii = [exact(radius) for radius in content["radii"]]
    certified = {way: dict(zip(radii, row["certified"], strict=True)) for way, row in rows.items()}
    votes = {way: row["vote"] for way, row in rows.items()}
    return Curve(setup, source, f"{float(sigma):g}", content["m"], certified, votes)
