"""The MLflow store: client, registry, the project's own database, and its errors in one sentence."""
