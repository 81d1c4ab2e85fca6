"""Measurements: each script writes small results with the command that made them."""
