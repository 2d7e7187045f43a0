"""The paths of the flows' results: files in reports/, and artifacts of MLflow runs."""

from cleanlabel.sanitize.paths import REPORTS

CERTIFICATE = REPORTS / "certificate.json"
CURVE = REPORTS / "certified_accuracy.csv"
CURVE_PICTURE = REPORTS / "certified_accuracy.png"
EXAMPLES = REPORTS / "sanitized_examples.png"
METRICS = REPORTS / "metrics.json"
GATE = REPORTS / "gate.json"
PAGE = REPORTS / "index.html"
REVIEWS = REPORTS / "reviews.jsonl"
TRAIN_METRICS = REPORTS / "train.json"
CHOOSER = REPORTS / "chooser.json"

PLAN_ARTIFACT = "ensemble/plan.json"
"""The plan of an ensemble, an artifact of its parent run."""
CERTIFICATE_ARTIFACT = "ensemble/certificate/certificate.json"
"""The certificate of an ensemble, an artifact of its parent run."""
NETWORKS = "ensemble/data/networks"
"""The networks of the draws, artifacts of the parent run in the place where MLflow expects a pyfunc's data."""
