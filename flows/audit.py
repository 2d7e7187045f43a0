"""Audit a registered version: compute its certificate again from its runs, and compare everything that should agree.

    python -m flows.audit --version N [--replay K]

It prints one line per check; the exit status is 1 if any check fails. `--replay K` retrains K draws, chosen at random,
from the revealed entropy and compares their votes.
"""

import argparse
import sys

from cleanlabel.flows.certificate.checks import audit
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.audit", description=__doc__.splitlines()[0])
    flags.add_argument("--version", type=int, required=True, help=f"the version of {SMOOTHED}")
    flags.add_argument("--replay", type=int, default=0, metavar="K", help="retrain K draws and compare their votes")
    return flags


def main() -> None:
    args = parser().parse_args()
    if args.replay < 0:
        raise InputError(f"--replay {args.replay} is negative; give the number of draws to retrain")
    passed = True
    with translate_store_errors():
        for check in audit(connect(), args.version, args.replay):
            passed &= check.passed
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}", flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    errors.run(main)
