"""Which detector predicts."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.home import Home
from tasks.predict import predict_files
from tests.flows.conftest import TEACHERS


def test_a_student_is_addressed_by_the_name_of_its_composition(tmp_path: Path, scenes: Path) -> None:
    home = Home(tmp_path)
    record = home.record("digits")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"bundle": str(TEACHERS / "digits-low")}))
    picture = sorted((scenes / "evaluation").glob("*.jpg"))[0]
    (result,) = predict_files(home, "digits", [picture], 0.1, None)
    assert result["image"] == str(picture)
    assert result["detections"]
