"""Bundles of mmdet for tests, honest and forged."""

from __future__ import annotations

import json

import safetensors.torch
import torch

from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.mmdet import MMDetDetector
from model_zoo.bundle import InputSpec, OutputSpec
from model_zoo.mmdet_runtime import build_model

VOCABULARY = ("red", "green", "blue")


def untrained(config):
    torch.manual_seed(0)
    model = build_model(config)
    model.init_weights()
    return model


def open_bundle(folder, manifest, **settings):
    return MMDetDetector(folder, manifest, InferenceSettings(**settings))


def forged(folder, config, state, vocabulary=VOCABULARY, spec=None):
    """A bundle that was not written by our writer, and so never tried."""
    weights = state if isinstance(state, bytes) else safetensors.torch.save(state)
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    return bundle.write(
        folder,
        name="forged",
        adapter="mmdet",
        vocabulary=vocabulary,
        input=spec
        or InputSpec(width=64, height=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
        output=OutputSpec(nms_iou=None),
        files={"config.json": content, "model.safetensors": weights},
    )
