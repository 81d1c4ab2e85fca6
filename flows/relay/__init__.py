"""The fast path from the registry to a new student: MLflow's webhook in, a run of `recompose` out."""
