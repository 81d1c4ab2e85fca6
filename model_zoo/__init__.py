"""Detectors: bundles, teacher adapters, student recipes and mmcv's operators."""
