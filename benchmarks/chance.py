"""How likely a box is right at IoU 0.5, by its score of a fuser calibrated without labels.

    python -m benchmarks.chance [--data DIR] [--home DIR]

Groups of COCO teachers are calibrated on ``coco/unlabeled.json`` without labels; the
labels of ``coco/train.json`` then fit the one number k of two curves from [0, 1] to
[0, 1], by log loss, every group weighing the same:

    1 - (1 - q)^k    and    q^k

``coco/val.json``, calibrated by itself, and blood cells (``bccd/val.json``, if the home
has the teachers `CELLS`) check it: log loss, and what `ExpectedF` keeps with the score
itself and with `SHARE_EXPONENT`. Writes ``benchmarks/results/chance.json``. Six minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from benchmarks.pools import Pool, fuse
from benchmarks.teachers import TEACHERS, add_teacher
from benchmarks.verdicts import Verdicts, figures
from composition import label_space as spaces
from composition.filtering import ExpectedF, Fixed, Labelled, kinds
from composition.filtering.labels import CENTRES, SHARE_EXPONENT, histograms
from composition.pseudo_labels import POSITIVE

Floats = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "chance.json"
YOLOX, NANODET, FASTEST, FASTESTDET, VOC, VOC_NANO = TEACHERS
GROUPS = {
    "pair": (YOLOX, VOC),
    "three": (YOLOX, NANODET, FASTEST),
    "six": tuple(TEACHERS),
    "weak": (FASTESTDET, VOC_NANO),
    "middle": (NANODET, VOC),
    "one": (YOLOX,),
}
CELLS = ("bccd-rbc-wbc", "bccd-wbc-platelets")
EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
CURVES: dict[str, Callable[[float], Floats]] = {
    "1 - (1 - q)^k": lambda k: 1 - (1 - CENTRES) ** k,
    "q^k": lambda k: CENTRES**k,
}


@dataclass(frozen=True)
class Boxes:
    """Fused boxes of a group.

    Attributes:
        right: (`BINS`,) right boxes by score, of the classes that the labels cover.
        wrong: (`BINS`,) the wrong ones.
        kept: Precision, recall and F1 of what `ExpectedF` keeps without labels, by exponent.
    """

    right: Floats
    wrong: Floats
    kept: dict[str, dict[str, float]]


def boxes(pool: Pool, members: Sequence[Any]) -> Boxes:
    """What a group of teachers finds on a pool."""
    space = spaces.build({member.name: member.manifest.vocabulary for member in members})
    expert = pool.label_free(members, space)
    fused, statistics = fuse(expert, pool.shards(members, space), pool.image_ids(), spaces.coverage(space))
    truth, covered = pool.truth(space)
    right, wrong, _ = histograms(Labelled(fused.detections, truth, covered))
    verdicts, kept = Verdicts.of(fused.detections, truth), {}
    for exponent in (1.0, SHARE_EXPONENT):
        rule = ExpectedF(exponent=exponent) | Fixed(0.5, 0.25)
        positive = kinds(fused, rule.thresholds(statistics)) == POSITIVE
        counts = verdicts.counts(positive & covered[fused.detections.class_id], len(covered))
        kept[str(exponent)] = figures(counts)
    return Boxes(right.sum(axis=0), wrong.sum(axis=0), kept)


def loss(chance: Floats, right: Floats, wrong: Floats) -> float:
    """Mean log loss."""
    chance = np.clip(chance, 1e-9, 1 - 1e-9)
    return float(-(right @ np.log(chance) + wrong @ np.log(1 - chance)) / (right + wrong).sum())


def mean_loss(chance: Floats, groups: Sequence[Boxes]) -> float:
    """Over the groups."""
    return float(np.mean([loss(chance, group.right, group.wrong) for group in groups]))


def fit(curve: Callable[[float], Floats], groups: Sequence[Boxes]) -> float:
    """The k of the lowest mean loss."""
    found = minimize_scalar(lambda k: mean_loss(curve(k), groups), bounds=(0.1, 10), method="bounded")
    return float(found.x)


def describe(group: Boxes, chosen: dict[str, float]) -> dict[str, Any]:
    """What a group says by itself, and how well the chosen k serve it."""
    right, wrong = group.right, group.wrong
    own = {name: fit(curve, [group]) for name, curve in CURVES.items()}
    place = np.digitize(CENTRES, EDGES[1:-1])
    rows = []
    for part in range(len(EDGES) - 1):
        inside = place == part
        count = float((right + wrong)[inside].sum())
        if count:
            score = float(CENTRES[inside] @ (right + wrong)[inside] / count)
            rows.append({"score": score, "right": float(right[inside].sum() / count), "boxes": int(count)})
    return {
        "boxes": int((right + wrong).sum()),
        "right": int(right.sum()),
        "expected_by_score": float(CENTRES @ (right + wrong)),
        "loss_of_score": loss(CENTRES, right, wrong),
        "curves": {
            name: {
                "own_k": own[name],
                "own_loss": loss(curve(own[name]), right, wrong),
                "loss": loss(curve(chosen[name]), right, wrong),
                "expected": float(curve(chosen[name]) @ (right + wrong)),
            }
            for name, curve in CURVES.items()
        },
        "expected_f": group.kept,
        "by_score": rows,
    }


def main() -> None:
    """Fits, checks, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/, bccd/ and teachers/")
    parser.add_argument("--home", type=Path, help="folder that keeps the detections; default: a fresh one")
    chosen = parser.parse_args()
    from tasks import teachers
    from tasks.home import Home

    with tempfile.TemporaryDirectory() as folder:
        home = Home(chosen.home or Path(folder))
        seen = Pool(home, chosen.data, "unlabeled.json", "train.json")
        unseen = Pool(home, chosen.data, "val.json", "val.json")
        members = {name: add_teacher(home, chosen.data, name) for name in TEACHERS}
        fitted = {group: boxes(seen, [members[name] for name in names]) for group, names in GROUPS.items()}
        checked = {
            f"{group}, val": boxes(unseen, [members[name] for name in names])
            for group, names in GROUPS.items()
        }
        if all((home.root / "teachers" / name).is_dir() for name in CELLS):
            cells = Pool(home, chosen.data, "val.json", "val.json", "bccd")
            checked["blood cells"] = boxes(cells, [teachers.find(home, name) for name in CELLS])
    exponents = {name: fit(curve, list(fitted.values())) for name, curve in CURVES.items()}
    document: dict[str, Any] = {
        "command": "python -m benchmarks.chance",
        "k": exponents,
        "mean_loss": {
            name: mean_loss(curve(exponents[name]), list(fitted.values())) for name, curve in CURVES.items()
        },
        "fitted_on": {group: describe(found, exponents) for group, found in fitted.items()},
        "checked_on": {group: describe(found, exponents) for group, found in checked.items()},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    for part in ("fitted_on", "checked_on"):
        for group, found in document[part].items():
            print(part, group, found["expected_f"])
    print(exponents, document["mean_loss"])


if __name__ == "__main__":
    main()
