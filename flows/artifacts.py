"""Where the flows leave what people and later flows read: files in reports/, and the artifacts of MLflow runs."""

from cleanlabel.sanitize.paths import REPORTS

CERTIFICATE = REPORTS / "certificate.json"
CURVE = REPORTS / "certified_accuracy.csv"
CURVE_PICTURE = REPORTS / "certified_accuracy.png"
EXAMPLES = REPORTS / "sanitized_examples.png"
METRICS = REPORTS / "metrics.json"
GATE = REPORTS / "gate.json"
PAGE = REPORTS / "index.html"
TRAIN_METRICS = REPORTS / "train.json"
CHOOSER = REPORTS / "chooser.json"

PLAN_ARTIFACT = "ensemble/plan.json"
"""The plan of an ensemble, at its parent run."""
CERTIFICATE_ARTIFACT = "ensemble/certificate/certificate.json"
"""The certificate of an ensemble, at its parent run."""
NETWORKS = "ensemble/data/networks"
"""The networks of the draws, at the parent run: where MLflow looks for a pyfunc's data."""
