"""A detector trained and run by torchvision alone, as its references do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

ARCHITECTURE = "ssdlite320_mobilenet_v3_large"
FILE = "torchvision/model.pth"
"""The state dict, below the home."""
SIDE = 160
"""Pixels; the builder's own 320 would take four times as long."""
OPTIONS = ("--input-size", f"{SIDE}x{SIDE}")
"""Of ``detcompose teacher add``."""
BATCH = 8
WARM_UP = 30
"""Steps."""


def train(data: Path, home: Path, *, epochs: int, seed: int = 0) -> None:
    """Trains on ``train.json`` from random weights, by the losses that the model itself returns.

    Args:
        data: Folder with ``train.json`` and ``images``.
        home: Where `FILE` goes, after every epoch.
        epochs: Passes over the images.
        seed: Of the first weights, the order and the flips.
    """
    torch.manual_seed(seed)
    model = _model().to(memory_format=torch.channels_last)
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    dataset = torchvision.datasets.wrap_dataset_for_transforms_v2(
        torchvision.datasets.CocoDetection(data / "images", str(data / "train.json"), transforms=transforms),
        target_keys=("boxes", "labels"),
    )
    loader: Any = torch.utils.data.DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        drop_last=True,
        collate_fn=_columns,
        generator=torch.Generator().manual_seed(seed),
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.97), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=WARM_UP)
    (home / FILE).parent.mkdir(parents=True, exist_ok=True)
    model.train()
    for epoch in range(epochs):
        for step, (images, targets) in enumerate(loader, 1):
            loss = sum(model(list(images), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            if step % 20 == 0:
                print(f"torchvision: epoch {epoch + 1}, step {step}, loss {loss.item():.3f}", flush=True)
        torch.save(average.module.state_dict(), home / FILE)


def detect(data: Path, home: Path) -> list[dict[str, Any]]:
    """What the model finds on ``val.json``, image by image, in COCO's form.

    Args:
        data: Folder with ``val.json`` and ``images``.
        home: Where `FILE` is.
    """
    model = _model()
    model.load_state_dict(torch.load(home / FILE, weights_only=True))
    model.eval()
    dataset = torchvision.datasets.CocoDetection(
        data / "images",
        str(data / "val.json"),
        transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    )
    found = []
    with torch.inference_mode():
        for image_id, (image, _) in zip(dataset.ids, dataset, strict=True):
            (answer,) = model([image])
            boxes = torchvision.ops.box_convert(answer["boxes"], "xyxy", "xywh").tolist()
            rows = zip(boxes, answer["scores"].tolist(), answer["labels"].tolist(), strict=True)
            found += [
                {"image_id": image_id, "bbox": box, "score": score, "category_id": label}
                for box, score, label in rows
            ]
    return found


def _model() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # three classes and the background
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=4
        )
    model.transform.fixed_size = (SIDE, SIDE)
    return model


def _columns(batch: Any) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))
