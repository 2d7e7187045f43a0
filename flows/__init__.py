"""Prefect flows, and the only code that talks to MLflow, DVC and the task engine."""

from cleanlabel.flows.environment import set_defaults

set_defaults()  # the one thing done at import: prefect and mlflow read the environment when they are
