"""A pytest plugin: the seconds of each test that passes, and of the longest set-up of each file, as JSON in $TIMED."""

import json
import os
from collections import defaultdict
from pathlib import Path

SECONDS: dict[str, float] = defaultdict(float)
SETUPS: dict[str, float] = defaultdict(float)
PASSED: set[str] = set()


def pytest_runtest_logreport(report) -> None:
    file = report.nodeid.partition("::")[0]
    if report.when == "setup":
        SETUPS[file] = max(SETUPS[file], report.duration)
    else:
        SECONDS[report.nodeid] += report.duration
    if report.when == "call" and report.passed:
        PASSED.add(report.nodeid)


def pytest_sessionfinish(session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        seconds = {test: round(SECONDS[test], 4) for test in PASSED}
        Path(os.environ["TIMED"]).write_text(json.dumps({"seconds": seconds, "setups": SETUPS}))
