"""How many of mmdet's own configs are read as data, and whether as mmengine has them, which runs them.

    python -m benchmarks.mmdet_configs [--json]

Writes ``benchmarks/results/mmdet_configs.json``. Half a minute.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "mmdet_configs.json"


def compare() -> dict[str, Any]:
    """Reads every config in both ways."""
    from mmengine.config import Config

    from composition.errors import UserError
    from model_zoo.adapters.mmdet_config_bases import read

    spec = find_spec("mmdet")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / ".mim" / "configs"
    counts = dict.fromkeys(("equal", "different", "refused", "mmengine_fails"), 0)
    reasons, different = Counter[str](), []
    for path in sorted(folder.rglob("*.py")):
        try:
            found = read(path)
        except UserError as error:
            counts["refused"] += 1
            reasons[re.sub(r".*line \d+: ", "", error.problem)[:60]] += 1
            continue
        try:
            expected = Config.fromfile(str(path)).to_dict()
        except ImportError:  # of a package that is not installed, which the config asks to import
            counts["mmengine_fails"] += 1
            continue
        counts["equal" if found == expected else "different"] += 1
        if found != expected:
            different.append(str(path.relative_to(folder)))
    return {"configs": sum(counts.values()), **counts, "reasons": dict(reasons), "which_differ": different}


def main() -> None:
    """Compares, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    document = {
        **compare(),
        "command": "python -m benchmarks.mmdet_configs",
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in ("onedl-mmdetection", "onedl-mmengine")},
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=None if chosen.json else 2))


if __name__ == "__main__":
    main()
