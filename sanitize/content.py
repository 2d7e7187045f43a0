"""What an image set holds, whatever its images and classes are called and in whatever order they come."""

import hashlib
from collections import defaultdict

from cleanlabel.sanitize.imageset import ImageSet


def content_digest(images: ImageSet) -> str:
    """sha256 over the pixels and over which images share a label.

    Two sets have one digest exactly if they hold the same images, each as often, and part them into the same classes:
    ids, order, the names of the classes and their numbers do not enter.
    """
    by_class: defaultdict[int, list[bytes]] = defaultdict(list)
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        by_class[label].append(hashlib.sha256(image.tobytes()).digest())
    classes = sorted(hashlib.sha256(b"".join(sorted(members))).digest() for members in by_class.values())
    shape = "x".join(map(str, images.image_shape))
    return hashlib.sha256(f"cleanlabel/content/1 {shape}\n".encode() + b"".join(classes)).hexdigest()
