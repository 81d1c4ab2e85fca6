"""Teacher adapters behind one small protocol (see `model_zoo.adapters.base`)."""
