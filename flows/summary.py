"""The end of `make demo`: print the result as a table, and where to find more.

python -m flows.summary
"""

import json
import os

from cleanlabel.flows.artifacts import CERTIFICATE, CURVE_PICTURE, EXAMPLES, GATE, PAGE
from cleanlabel.flows.artifacts import TRAIN_METRICS as METRICS
from cleanlabel.flows.certificate.checks import Check
from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.certificate.wording import title
from cleanlabel.flows.certify import seconds_a_model
from cleanlabel.flows.report.tables import table
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, version_of_plan
from cleanlabel.models.rounding import up_text
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError


def main() -> None:
    if not CERTIFICATE.is_file():
        raise InputError(f"{CERTIFICATE} does not exist; run `dvc repro`")
    certificate = json.loads(CERTIFICATE.read_text())
    with translate_store_errors():
        store = connect()
        version = version_of_plan(store, SMOOTHED, certificate["plan_digest"])
        seconds = seconds_a_model(store, version.run_id)
    print(f"\n{SMOOTHED} version {version.version}: {title(certificate)}\n")
    print(table(certificate, seconds))
    print(f"\nA certificate is false with probability at most {up_text(certificate['level'])}, {certificate['holds']}.")
    if METRICS.is_file():
        accuracy = json.loads(METRICS.read_text())["test_accuracy"]
        print(f"The ordinary model on one sanitized copy: accuracy {accuracy:.3f}; defended, not certified.")
    verdict = Verdict([Check(**check) for check in json.loads(GATE.read_text())["checks"]])
    print(f"Gate: {'passed' if verdict.passed else f'not passed: {verdict.reasons}'}.")
    print(f"\npictures   {CURVE_PICTURE}  {EXAMPLES}")
    print(f"page       {PAGE}  (open it in a browser: all of this, with pictures)")
    print("review     .venv/bin/python -m flows.review")
    print(f"MLflow     .venv/bin/mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}")
    print("DVC plot   .venv/bin/dvc plots show   (then open dvc_plots/index.html)")


if __name__ == "__main__":
    errors.run(main)
