"""Prefect flows. Only this code talks to MLflow, DVC and the task engine."""

from cleanlabel.flows.environment import set_defaults

set_defaults()  # done at import, because prefect and mlflow read the environment when they are imported
