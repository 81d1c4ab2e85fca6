"""Secrets: where they come from, who may read them, what is shown of them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from composition.errors import UserError
from flows.services.secret_files import fernet_key, from_environment, obtain, password
from tasks.home import Home


def test_a_made_secret_is_kept_and_closed_to_others(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    secret = obtain(home, "DETCOMPOSE_TEST_SECRET", "test", password)
    path = home.root / "secrets" / "test"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text().strip() == secret.value
    assert obtain(home, "DETCOMPOSE_TEST_SECRET", "test", password) == secret
    assert secret.value not in repr(secret)
    assert secret.reference() == {"file": str(path)}


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    obtain(home, "DETCOMPOSE_TEST_SECRET", "test", password)
    (tmp_path / "secrets" / "test").chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        obtain(home, "DETCOMPOSE_TEST_SECRET", "test", password)


def test_the_environment_comes_first_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETCOMPOSE_TEST_SECRET", "given")
    secret = obtain(Home(tmp_path), "DETCOMPOSE_TEST_SECRET", "test", password)
    assert (secret.value, secret.reference()) == ("given", {"variable": "DETCOMPOSE_TEST_SECRET"})
    assert not (tmp_path / "secrets").exists()


def test_a_file_that_the_environment_names(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_text("from a file\n")
    secret = from_environment("NAME", {"NAME_FILE": str(path)})
    assert secret
    assert (secret.value, secret.file) == ("from a file", path)
    assert from_environment("NAME", {}) is None
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        from_environment("NAME", {"NAME_FILE": str(path)})
    with pytest.raises(UserError, match="cannot be read"):
        from_environment("NAME", {"NAME_FILE": "/nowhere"})
    with pytest.raises(UserError, match="both set"):
        from_environment("NAME", {"NAME": "one", "NAME_FILE": str(path)})


def test_keys_are_of_the_kind_that_mlflow_takes() -> None:
    box = Fernet(fernet_key())
    assert box.decrypt(box.encrypt(b"secret")) == b"secret"
