"""The record: MLflow runs, lineage, registry and gate. Nothing else imports mlflow."""
