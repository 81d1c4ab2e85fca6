"""Discovery of class relations with the names hidden, on 421 unlabeled COCO images.

    python -m benchmarks.discovery [--data DIR] [--home DIR] [--json]

Every pair of the six pretrained teachers is compared by behaviour alone; the
names are then used to mark the proposals. Two harder cases follow. *Missing*:
one class at a time is taken away from the larger vocabulary, so that anything
confident for its partner is wrong. *Merged*: the VOC teachers' classes are
relabelled into `animal`, `vehicle` and `furniture`, so that `broader` is right.

Writes ``benchmarks/results/discovery.json`` and ``.md``. About a minute for the
detections (kept in --home) and half a one for the rest. Nothing is random.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.teachers import TEACHERS, add_teacher
from composition.aliases import find
from composition.detections import Detections
from composition.discovery import Discovery, Proposal, discover

RESULTS = Path(__file__).parent / "results"
# parts of each merged class among the names of COCO (darknet spelling): first the teacher's
# own classes, then classes that it has no name for and that are kinds of it all the same
GROUPS = {
    "animal": (
        ("bird", "cat", "cow", "dog", "horse", "sheep"),
        ("bear", "elephant", "giraffe", "zebra"),
    ),
    "vehicle": (("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"), ("truck",)),
    "furniture": (("chair", "diningtable", "sofa"), ("bed", "bench")),
}


def detections_of(
    data: Path, home: Path, names: Sequence[str] = tuple(TEACHERS)
) -> dict[str, tuple[Detections, tuple[str, ...]]]:
    """Every teacher's detections on the unlabeled images, and its names."""
    from tasks.home import Home
    from tasks.image_index import build_index, list_images
    from tasks.infer import GenerateSettings, load_all, run_inference

    place = Home(home)
    index = build_index(place.store, list_images(data / "coco" / "unlabeled.json"))
    result = {}
    for name in names:
        teacher = add_teacher(place, data, name)
        shards = run_inference(place.store, teacher, index, GenerateSettings())
        result[name] = (load_all(shards), teacher.manifest.vocabulary)
    return result


def true_pairs(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """Class of the second to the class of the first that it is by name."""
    return {number: found[0] for number, found in enumerate(find(second, first)) if found}


def _row(proposal: Proposal, first: Sequence[str], second: Sequence[str], right: bool) -> dict[str, Any]:
    return {
        "first": first[proposal.first],
        "second": second[proposal.second],
        "relation": proposal.relation,
        "confident": proposal.confident,
        "right": right,
        "p_value": round(proposal.p_value, 5),
        "agreeing_images": [proposal.forward.agreeing_images, proposal.backward.agreeing_images],
    }


def _tally(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    sure = [row for row in rows if row["confident"]]
    return {
        "confident": len(sure),
        "confident_wrong": sum(not row["right"] for row in sure),
        "proposed": len(rows),
        "proposed_wrong": sum(not row["right"] for row in rows),
    }


def hidden(
    one: tuple[Detections, tuple[str, ...]], two: tuple[Detections, tuple[str, ...]]
) -> dict[str, Any]:
    """Recovers the second's classes among the first's."""
    (first, names), (second, other) = one, two
    found = discover(first, second, (len(names), len(other)))
    truth = true_pairs(names, other)
    rows = [
        _row(p, names, other, p.relation == "same" and truth.get(p.second) == p.first)
        for p in found.proposals
    ]
    recovered = {p.second for p, row in zip(found.proposals, rows, strict=True) if row["right"]}
    sure = {p.second for p, row in zip(found.proposals, rows, strict=True) if row["right"] and p.confident}
    evidence = {number: _evidence(found, truth[number], number) for number in truth}
    return {
        **_tally(rows),
        "classes": len(truth),
        "recall_confident": round(len(sure) / len(truth), 4),
        "recall": round(len(recovered) / len(truth), 4),
        "not_confident": {other[n]: evidence[n] for n in truth if n not in sure},
        "missing": {other[n]: evidence[n] for n in truth if n not in recovered},
        "wrong": [row for row in rows if not row["right"]],
        "ask": [round(value, 3) for value in found.ask],
        "hear": [round(value, 3) for value in found.hear],
    }


def _evidence(found: Discovery, first: int, second: int) -> dict[str, int]:
    """Images in which each teacher's boxes of a class were answered, and with its partner."""
    result = {}
    for side, answers, asked, answer in (
        ("forward", found.first, first, second),
        ("backward", found.second, second, first),
    ):
        rows = (answers.asked == asked) & (answers.answer >= 0)
        result[f"{side}_images"] = len(np.unique(answers.image_id[rows]))
        result[f"{side}_agreeing"] = len(np.unique(answers.image_id[rows & (answers.answer == answer)]))
    return result


def missing(
    one: tuple[Detections, tuple[str, ...]], two: tuple[Detections, tuple[str, ...]]
) -> dict[str, Any]:
    """Takes one class at a time from the first; whatever is proposed for its partner is wrong."""
    (first, names), (second, other) = one, two
    rows = []
    for number, partner in true_pairs(names, other).items():
        left = first[first.class_id != partner]
        found = discover(left, second, (len(names), len(other)))
        rows += [_row(p, names, other, False) for p in found.proposals if p.second == number]
    return {**_tally(rows), "wrong_confident": [row for row in rows if row["confident"]]}


def merged(
    one: tuple[Detections, tuple[str, ...]], two: tuple[Detections, tuple[str, ...]], turned: bool
) -> dict[str, Any]:
    """Gathers classes of the second under wider names and looks for their parts in the first."""
    (first, names), (second, other) = one, two
    wide = {part: name for name, (own, _) in GROUPS.items() for part in own}
    vocabulary = tuple(dict.fromkeys(wide.get(name, name) for name in other))
    ids = np.array([vocabulary.index(wide.get(name, name)) for name in other], np.int32)
    relabelled = replace(second, class_id=ids[second.class_id])
    kinds = {(part, name) for name, groups in GROUPS.items() for group in groups for part in group}
    truth = true_pairs(names, vocabulary)
    pair, sizes = (first, relabelled), (len(names), len(vocabulary))
    found = discover(*(pair[::-1] if turned else pair), sizes[::-1] if turned else sizes)
    rows = []
    for p in found.proposals:
        a, b = (p.second, p.first) if turned else (p.first, p.second)
        if p.relation == "same":
            right = truth.get(b) == a
        else:
            right = p.relation == ("narrower" if turned else "broader")
            right = right and (names[a], vocabulary[b]) in kinds
        row = _row(p, vocabulary if turned else names, names if turned else vocabulary, right)
        rows.append({**row, "part": names[a], "whole": vocabulary[b]})
    parts: dict[str, dict[str, list[str]]] = {}
    for name, (own, _) in GROUPS.items():
        sure = [r["part"] for r in rows if r["whole"] == name and r["confident"] and r["relation"] != "same"]
        parts[name] = {"confident": sure, "own_not_confident": [part for part in own if part not in sure]}
    return {**_tally(rows), "parts": parts, "wrong": [row for row in rows if not row["right"]]}


def measure(data: Path, home: Path) -> dict[str, Any]:
    """All cases."""
    found = detections_of(data, home)
    hidden_rows, missing_rows, merged_rows = {}, {}, {}
    for first, second in combinations(TEACHERS, 2):
        key = f"{first} | {second}"
        hidden_rows[key] = hidden(found[first], found[second])
        if "voc" in second and "voc" not in first:
            missing_rows[key] = missing(found[first], found[second])
            merged_rows[key] = merged(found[first], found[second], False)
            merged_rows[f"{second} | {first}"] = merged(found[first], found[second], True)
    return {"hidden": hidden_rows, "missing": missing_rows, "merged": merged_rows}


def markdown(document: dict[str, Any]) -> str:
    """The figures as tables."""
    lines = [
        "# Discovery of class relations with hidden names",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}; 421 images of "
        "`coco/unlabeled.json`; nothing is random.",
        "",
        "| first teacher | second teacher (names hidden) | classes | confident | of these wrong "
        "| all | of these wrong | recall confident | recall all |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = dict.fromkeys(("classes", "confident", "confident_wrong", "proposed", "proposed_wrong"), 0)
    for key, row in document["hidden"].items():
        first, second = key.split(" | ")
        lines.append(
            f"| {first} | {second} | {row['classes']} | {row['confident']} | {row['confident_wrong']} "
            f"| {row['proposed']} | {row['proposed_wrong']} | {100 * row['recall_confident']:.0f} % "
            f"| {100 * row['recall']:.0f} % |"
        )
        for name in total:
            total[name] += row[name]
    lines.append(f"| all pairs | | {' | '.join(str(value) for value in total.values())} | | |")
    pair = "yolox_nano_coco | yolo_fastest_xl_voc"
    lines += [
        "",
        f"Classes of {pair} that are not confidently recovered: images in which the boxes of each side "
        "were answered, and with the partner.",
        "",
        "| class | first's images, agreeing | second's images, agreeing | proposed |",
        "|---|---:|---:|---|",
    ]
    row = document["hidden"][pair]
    for name, e in row["not_confident"].items():
        lines.append(
            f"| {name} | {e['forward_images']}, {e['forward_agreeing']} | {e['backward_images']}, "
            f"{e['backward_agreeing']} | {'no' if name in row['missing'] else 'yes, unsure'} |"
        )
    lines += [
        "",
        "| case | pair | confident | of these wrong | all | of these wrong |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for case in ("missing", "merged"):
        for key, row in document[case].items():
            pair = key.replace(" | ", ", ")
            lines.append(
                f"| {case} | {pair} | {row['confident']} | {row['confident_wrong']} | {row['proposed']} "
                f"| {row['proposed_wrong']} |"
            )
    lines += ["", "Parts of the merged classes that were confidently found (`broader`):", ""]
    for key, row in document["merged"].items():
        found = "; ".join(
            f"{name}: {', '.join(p['confident']) or 'none'}" for name, p in row["parts"].items()
        )
        lines.append(f"- {key.replace(' | ', ', ')}: {found}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--home", type=Path, help="folder that keeps the detections; default: a fresh one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "unlabeled.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(chosen.data, chosen.home or Path(folder))
    document = {
        "command": "python -m benchmarks.discovery",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": None,
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "discovery.json").write_text(json.dumps(document, indent=2) + "\n")
    text = markdown(document)
    (RESULTS / "discovery.md").write_text(text)
    print(json.dumps(document) if chosen.json else text)


if __name__ == "__main__":
    main()
