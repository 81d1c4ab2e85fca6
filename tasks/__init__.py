"""Pipeline steps: each reads artifacts, calls the method or the zoo, writes artifacts."""
