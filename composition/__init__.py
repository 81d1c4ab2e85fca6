"""The method of detcompose: arrays in, arrays out.

Nothing here knows Prefect, MLflow, mmdet, torch or the network; the import
rule is checked by import-linter (see ``pyproject.toml``).
"""
