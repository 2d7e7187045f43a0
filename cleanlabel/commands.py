"""The commands of pure arithmetic: certificates from votes in a file, and how many models to plan for."""

import argparse
import csv
import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.certifying import Certificate, bought, certify_votes, models_for_radius, reach
from cleanlabel.given import MOST, whole
from cleanlabel.models.certificate import METHODS
from cleanlabel.models.certificate import certify as certify_counts
from cleanlabel.models.rounding import down_text, exact, up_text
from cleanlabel.models.votes import array_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing

USUAL = (20, 50, 100, 200, 500, 1000)
"""Numbers of models that `plan` shows."""


def certify_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of `certify-votes`; prog: how it was called."""
    flags = argparse.ArgumentParser(
        prog=prog,
        description="Certificates from the votes of your own models, each trained on a sanitized copy of its own. What "
        "you promise by it: `help(cleanlabel.certify_votes)`.",
    )
    flags.add_argument("votes", type=Path, help="a .npy of integers (m, n): model, test point; -1 for no answer")
    flags.add_argument("--sigma", type=float, required=True, help="noise of the copies, in [0,1] pixel units")
    flags.add_argument(
        "--training-set",
        type=int,
        nargs="+",
        required=True,
        metavar="N",
        help="shape of the raw training images: number, height, width and, if they have colour, 3",
    )
    _level_flags(flags)
    flags.add_argument("--selection", type=Path, help="method split: a .npy of the votes that choose the class")
    flags.add_argument("--simultaneous", action="store_true", help="alpha for all test points together, not for each")
    flags.add_argument("--truth", type=Path, help="a .npy of the n true labels, for certified accuracy")
    flags.add_argument("--output", type=Path, help="a .csv or .json: index, label (-1: abstained), radius, vote")
    return flags


def certify(words: Sequence[str] | None = None, prog: str = "cleanlabel certify-votes") -> None:
    """The command. words: its arguments, by default the process's own; prog: how it was called."""
    args = certify_parser(prog).parse_args(words)
    if args.output and args.output.suffix not in (".csv", ".json"):
        raise InputError(f"--output {args.output} is neither .csv nor .json; give it one of these endings")
    votes = read_integers(args.votes, 2)
    if args.selection and args.selection.exists() and args.selection.samefile(args.votes):
        raise InputError(f"--selection {args.selection} is the file of the votes; give the votes of further models")
    truth = read_integers(args.truth, 1) if args.truth else None
    if truth is not None and len(truth) != votes.shape[1]:
        raise InputError(
            f"{args.truth} has {len(truth)} labels, and {args.votes} votes on {votes.shape[1]} test points"
        )
    found = certify_votes(
        votes,
        args.sigma,
        args.training_set,
        alpha=args.alpha,
        method=args.method,
        classes=args.classes,
        simultaneous=args.simultaneous,
        ensembles=args.ensembles,
        selection=read_integers(args.selection, 2) if args.selection else None,
    )
    if args.output:
        with replacing(args.output) as scratch:
            scratch.write_text((as_csv if args.output.suffix == ".csv" else as_json)(found, truth))
    print(found.summary(truth))
    if args.output:
        print(f"{args.output}: label and radius of {len(found.label)} points")


def plan_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of `plan`; prog: how it was called."""
    flags = argparse.ArgumentParser(
        prog=prog,
        description="How many models a certificate takes, and what a radius buys, before anything is trained.",
    )
    flags.add_argument("--sigma", type=float, required=True, help="noise of the copies, in [0,1] pixel units")
    flags.add_argument("--radius", type=float, help="the joint l2 radius that you need, in [0,1] pixel units")
    flags.add_argument("--models", type=int, nargs="+", default=USUAL, metavar="M", help="numbers of models to show")
    flags.add_argument("--points", type=int, default=1, help="test points that must hold all at once (default 1)")
    flags.add_argument(
        "--image", type=int, nargs="+", default=(32, 32, 3), metavar="N", help="height, width[, 3] (default 32 32 3)"
    )
    _level_flags(flags)
    return flags


def plan(words: Sequence[str] | None = None, prog: str = "cleanlabel plan") -> None:
    """The command. words: its arguments, by default the process's own; prog: how it was called."""
    args = plan_parser(prog).parse_args(words)
    numbers = (("--ensembles", args.ensembles), ("--points", args.points), *(("--models", m) for m in args.models))
    for name, value in numbers:
        whole(value, name)
    if len(args.image) not in (2, 3) or min(args.image) < 1 or math.prod(args.image) > MOST:
        raise InputError(
            f"--image {' '.join(map(str, args.image))} is not a shape; give height, width and, for colour, 3"
        )
    if not args.sigma:
        raise InputError("--sigma 0: without noise no vote certifies anything; give a number above 0, such as .25")
    classes, pixels = 2 if args.classes is None else args.classes, math.prod(args.image)
    if args.method == "margin" and not args.classes:
        raise InputError("--method margin bounds every class and must know how many there are; give --classes")
    level = args.alpha / args.ensembles / args.points
    least = models_for_radius(0.0, args.sigma, level, args.method, classes)
    asked = None if args.radius is None else models_for_radius(args.radius, args.sigma, level, args.method, classes)
    print(f"sigma {args.sigma:g}, level {up_text(level)} per test point, method {args.method}")
    print(f"fewer than {least} models certify nothing, even if all agree")
    if asked:
        print(f"radius {exact(args.radius)}: at least {asked} models, if all agree{bought(args.radius, pixels)}")
    for m in sorted({*args.models, *([asked] if asked else [])}):
        radius = reach(m, args.sigma, level, args.method, classes)
        most = int(0.95 * m)
        part = _radius_of(most, m, args.sigma, level, args.method, classes)
        words_bought = bought(radius, pixels) if radius else ""
        print(f"{m:>6} models: radius {down_text(radius)} if all agree, {down_text(part)} if {most} do{words_bought}")


def _radius_of(votes: int, m: int, sigma: float, level: float, method: str, classes: int) -> float:
    counts = np.zeros((1, max(2, classes)), dtype=np.int64)
    counts[0, :2] = votes, m - votes
    return float(certify_counts(counts, m, sigma, level, method, counts if method == "split" else None)[1][0])


def _level_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("--alpha", type=float, default=0.001, help="probability of a false certificate (default .001)")
    flags.add_argument("--method", choices=METHODS, default="binary", help="how votes are bounded (default binary)")
    flags.add_argument("--classes", type=int, help="number of classes; method margin needs it")
    flags.add_argument(
        "--ensembles", type=int, default=1, help="ensembles on this training set that share alpha (default 1)"
    )


def read_integers(path: Path, axes: int) -> NDArray[np.int64]:
    """The integers in a .npy file with `axes` axes. InputError if it is anything else; nothing is unpickled."""
    if not path.is_file():
        raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}; give a .npy file of integers")
    if zipfile.is_zipfile(path):
        raise InputError(f"{path} is an archive of several arrays; save the one array with numpy.save")
    try:
        found = array_of(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not a readable .npy file of numbers ({error}); save it with numpy.save") from error
    if found.ndim != axes or not np.issubdtype(found.dtype, np.integer):
        shape = "(m, n)" if axes == 2 else "(n,)"
        raise InputError(f"{path} holds {found.dtype} of shape {found.shape}; give integers of shape {shape}")
    return found.astype(np.int64)


def _points(found: Certificate, truth: NDArray[np.int64] | None) -> list[dict[str, Any]]:
    columns = {"label": found.label, "radius": found.radius, "vote": found.vote}
    columns |= {} if truth is None else {"truth": truth}
    lists = {name: values.tolist() for name, values in columns.items()}
    return [{"index": i, **{name: values[i] for name, values in lists.items()}} for i in range(len(found.label))]


def as_csv(found: Certificate, truth: NDArray[np.int64] | None) -> str:
    """One line per test point: index, label (-1: abstained), radius, vote and, if known, truth."""
    rows = _points(found, truth)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_json(found: Certificate, truth: NDArray[np.int64] | None) -> str:
    """The same as JSON, with the arguments of the computation."""
    names = ("m", "sigma", "level", "method", "noise_distance")
    content = {name: getattr(found, name) for name in names} | {"points": _points(found, truth)}
    return json.dumps(content, indent=2) + "\n"
