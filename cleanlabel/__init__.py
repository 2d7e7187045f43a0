"""Sanitize training images with diffusion denoising, and certify how little poisoning can change a prediction.

For a notebook or a training script:

    copies = cleanlabel.SanitizedCopies(data, denoiser, sigma=0.5, m=100)
    votes = [train_and_predict(copy.images, copy.labels) for copy in copies]
    certificate = copies.certify(votes)
    print(certificate.summary(truth))

Each name below is imported when it is first used: importing the package itself loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleanlabel.api import SanitizedCopies, SanitizedCopy, image_set, load_denoiser, sanitize_images
    from cleanlabel.certifying import Certificate, certify_sums, certify_votes, models_for_radius, reach
    from cleanlabel.models.certificate import ABSTAIN, images_tolerated, per_image_radius
    from cleanlabel.sanitize.errors import InputError

_WHERE = {
    "SanitizedCopies": "cleanlabel.api",
    "SanitizedCopy": "cleanlabel.api",
    "image_set": "cleanlabel.api",
    "load_denoiser": "cleanlabel.api",
    "sanitize_images": "cleanlabel.api",
    "Certificate": "cleanlabel.certifying",
    "certify_sums": "cleanlabel.certifying",
    "certify_votes": "cleanlabel.certifying",
    "models_for_radius": "cleanlabel.certifying",
    "reach": "cleanlabel.certifying",
    "ABSTAIN": "cleanlabel.models.certificate",
    "images_tolerated": "cleanlabel.models.certificate",
    "per_image_radius": "cleanlabel.models.certificate",
    "InputError": "cleanlabel.sanitize.errors",
}

__all__ = [  # noqa: RUF022 (in the order of use)
    "load_denoiser",
    "image_set",
    "sanitize_images",
    "SanitizedCopies",
    "SanitizedCopy",
    "certify_votes",
    "certify_sums",
    "Certificate",
    "models_for_radius",
    "reach",
    "per_image_radius",
    "images_tolerated",
    "ABSTAIN",
    "InputError",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cleanlabel' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
