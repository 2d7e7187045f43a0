"""A folder `root/<class>/<image>`: find its images and their classes, and report what is wrong with other files."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.names import normal, shown, twins
from cleanlabel.sanitize.pictures import Seen, Unreadable, hush, look_at, read_picture
from cleanlabel.sanitize.trees import Refused, Tree, walk

READERS = 4
"""The number of threads that decode image files; decoding releases the lock, so they run in parallel."""
NAMED = 10
"""How many files a refusal names; it counts the others."""
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


@dataclass(frozen=True)
class Reading:
    """The user's options for reading a folder.

    nested            the folders directly under it are the classes, whatever their names and the depth of the images
    skip_unreadable   leave out unreadable files, and list them
    flags             whether the command has flags for these two, which messages may then suggest
    """

    nested: bool = False
    skip_unreadable: bool = False
    flags: bool = False


@dataclass(frozen=True, eq=False)
class Folder:
    """The images of a folder: their paths under it, and the facts for `sanitize.sources.Source`.

    `survey` decodes every image and returns the error that names all unreadable ones.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sizes: NDArray[np.int64]
    channels: int
    animated: int
    skipped: tuple[Refused, ...]
    read_one: Callable[[int], NDArray[np.uint8]]
    survey: Callable[[], InputError]


def reading_flags(flags: ArgumentParser) -> None:
    """Give a command the flags of a `Reading`."""
    flags.add_argument(
        "--nested",
        action="store_true",
        help="the folders right under a folder are the classes, however deep the images lie in them",
    )
    flags.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out files that cannot be read as images and list them in the manifest; decodes every image twice",
    )


def reading_of(args: Namespace) -> Reading:
    """The `Reading` from the flags of `reading_flags`."""
    return Reading(args.nested, args.skip_unreadable, flags=True)


def open_folder(root: Path, reading: Reading) -> Folder:
    """Look at every file under `root`. InputError names everything that is no image, unless it is to be skipped."""
    hush()
    tree = walk(root)
    if not tree.tops:
        if tree.refused:
            raise _refusal(root, tree.refused, len(tree.files) + len(tree.refused), reading)
        raise InputError(f"{shown(str(root))} has no class folders; arrange the images as root/<class>/<image>")
    refused = [*tree.refused, *_beside(tree)]
    files = sorted((path for path in tree.files if "/" in path), key=_order)
    seen, unreadable = _each(root, files, look_at)
    if not reading.nested:
        _ask(root, tree.tops, [path for path in files if path in seen], reading)
    if unreadable or refused or reading.skip_unreadable:
        # Decode everything now: headers do not show all damage.
        whole, damaged = _each(root, list(seen), _decoded)
        refused = sorted([*refused, *unreadable, *damaged], key=lambda one: _order(one.path))
        if refused and not reading.skip_unreadable:
            raise _refusal(root, refused, len(tree.files) + len(tree.refused), reading)
        seen = {path: seen[path] for path in whole}
    names = tuple(seen)
    pair = twins([*tree.tops, *names])
    if pair:
        one, other = (shown(str(root / path)) for path in pair)
        raise InputError(
            f"{one} and {other} differ only in case or Unicode form, and are one file on other systems; rename one"
        )
    classes = tuple(sorted(tree.tops, key=normal))
    empty = sorted(set(classes) - {name.partition("/")[0] for name in names})
    if empty:
        raise InputError(f"the class folder {root / empty[0]} holds no image; remove it, or put images there")
    number = {name: label for label, name in enumerate(classes)}
    channels = 1 if all(one.grey for one in seen.values()) else 3
    sizes = np.array([(one.height, one.width) for one in seen.values()], dtype=np.int64)

    def read_one(i: int) -> NDArray[np.uint8]:
        pixels = read_picture(root / names[i], channels)
        if pixels.shape[:2] != tuple(sizes[i]):
            raise Unreadable(root / names[i], "its pixels do not have the size that its header states")
        return pixels

    def survey() -> InputError:
        damaged = _each(root, names, _decoded)[1]
        return _refusal(root, damaged, len(names), reading) if damaged else InputError(f"{root} changed; run again")

    return Folder(
        names,
        np.array([number[name.partition("/")[0]] for name in names], dtype=np.int64),
        tuple(map(normal, classes)),
        sizes,
        channels,
        sum(one.animated for one in seen.values()),
        tuple(Refused(shown(one.path), one.reason) for one in refused),
        read_one,
        survey,
    )


def _order(path: str) -> list[str]:
    """Sort key: by folder, then by name, in the composed form. It is the same on every system."""
    return normal(path).split("/")


def _beside(tree: Tree) -> list[Refused]:
    """Files directly under the root, without a copy's own manifest."""
    return [
        Refused(path, "it lies beside the class folders")
        for path in tree.files
        if "/" not in path and path != "manifest.json"
    ]


def _decoded(path: Path) -> Seen:
    seen = look_at(path)
    if read_picture(path, 3).shape[:2] != (seen.height, seen.width):
        raise Unreadable(path, "its pixels do not have the size that its header states")
    return seen


def _each(root: Path, paths: Sequence[str], look: Callable[[Path], Seen]) -> tuple[dict[str, Seen], list[Refused]]:
    """The result of `look` for each file, and the files it cannot read."""

    def one(path: str) -> Seen | Refused:
        try:
            return look(root / path)
        except Unreadable as error:
            return Refused(path, error.reason)

    seen: dict[str, Seen] = {}
    refused: list[Refused] = []
    with ThreadPoolExecutor(READERS) as pool:
        for path, found in zip(paths, pool.map(one, paths), strict=True):
            if isinstance(found, Refused):
                refused.append(found)
            else:
                seen[path] = found
    return seen, refused


def _ask(root: Path, tops: Sequence[str], images: Sequence[str], reading: Reading) -> None:
    """InputError if the folders directly under the root may not be the classes."""
    deep = [path for path in images if path.count("/") > 1]
    splits = [name for name in sorted(tops) if name.lower() in SPLITS]
    whole = len(splits) == len(tops)
    if not deep and not (whole and splits):
        return
    first = splits[0] if splits else deep[0].partition("/")[0]
    if whole:
        what = f"{root} holds the folders {', '.join(splits)}, which look like splits, not classes"
    else:
        what = f"{len(deep)} images lie deeper than {root}/<class>/<image>, {root / shown(deep[0])} for example"
    if not reading.flags:
        raise InputError(f"{what}; arrange the images as root/<class>/<image>")
    instead = f"give --input {root / first} if its folders are the classes, or " if deep else ""
    raise InputError(
        f"{what}; {instead}--nested if {', '.join(sorted(tops)[:3])}{', ..' if len(tops) > 3 else ''} are the classes"
    )


def _refusal(root: Path, refused: Sequence[Refused], total: int, reading: Reading) -> InputError:
    """The error about all refused files, in one sentence."""
    way_out = "repair, convert or remove {}" + (", or leave {} out with --skip-unreadable" if reading.flags else "")
    if len(refused) == 1:
        [one] = refused
        words = way_out.replace("{}", "it")
        return InputError(f"{shown(str(root / one.path))} cannot be read as an image ({one.reason}); {words}")
    named = ", ".join(f"{shown(one.path)} ({one.reason})" for one in refused[:NAMED])
    more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    return InputError(
        f"{len(refused)} of {total} files under {shown(str(root))} cannot be read as images: {named}{more}; "
        f"{way_out.replace('{}', 'them')}"
    )
