"""Services of one machine: Prefect and MLflow servers, worker, webhook relay, and who keeps them running."""
