"""The sizes, heads and steps of the benchmark of certified transfer."""

from dataclasses import dataclass

from cleanlabel.models.heads import HeadKind

BATCH = 64
ALPHA = 0.001
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
HEADS: dict[str, tuple[HeadKind, float, bool]] = {  # name -> kind, l2, whether drawn towards the extractor's own head
    "mean": ("mean", 1.0, False),
    "direction": ("direction", 1.0, False),
    "lda": ("lda", 1.0, False),
    "ridge": ("ridge", 0.3, False),
    "ridge, prior": ("ridge", 0.3, True),
}
FEW = 0.4
"""Share of the raw images that the first step makes do with."""
STEPS = (
    ("frozen", "ridge", "few"),
    ("frozen", "ridge", "all"),
    ("frozen", "lda", "all"),
    ("distilled", "lda", "all"),
    ("distilled", "ridge, prior", "all"),
)
VARIANTS = (
    ("frozen", "ridge", "few"),
    ("distilled", "lda", "few"),
    *((extractor, head, "all") for extractor in ("frozen", "distilled") for head in HEADS),
)
WAYS = ("denoised", "noise only")
TIMED = ("sanitize", "noise", "features", "heads")


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    m: int
    raw: int
    test: int
    trusted: int
    epochs: int


FULL = Size(m=100, raw=5000, test=1000, trusted=4000, epochs=2)
QUICK = Size(m=2, raw=200, test=100, trusted=200, epochs=1)
