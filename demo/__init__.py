"""The demo: two detectors of handwritten digits become one, without labels."""
