"""The content of an image set, independent of the order and of the names of images and classes."""

import hashlib
from collections import defaultdict

from cleanlabel.sanitize.imageset import ImageSet


def content_digest(images: ImageSet) -> str:
    """sha256 of the pixels and of the partition of the images into classes.

    Two sets have the same digest exactly if they have the same images, equally often, and the same partition into
    classes. Ids, order, and the names and numbers of classes do not matter.
    """
    by_class: defaultdict[int, list[bytes]] = defaultdict(list)
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        by_class[label].append(hashlib.sha256(image.tobytes()).digest())
    classes = sorted(hashlib.sha256(b"".join(sorted(members))).digest() for members in by_class.values())
    shape = "x".join(map(str, images.image_shape))
    return hashlib.sha256(f"cleanlabel/content/1 {shape}\n".encode() + b"".join(classes)).hexdigest()
