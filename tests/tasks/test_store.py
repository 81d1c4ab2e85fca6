from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from composition.errors import UserError
from tasks.store import Store, digest_of, write_atomic


def _write(store: Store, text: str = "hello") -> None:
    with store.write("things", "k1", {"source": "abc"}) as draft:
        draft.file("a.txt").write_text(text)
        draft.counts = {"rows": 3}


def test_an_artifact_is_found_after_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("things", "k1") is None
    _write(store)
    found = store.find("things", "k1")
    assert found is not None
    assert found.file("a.txt").read_text() == "hello"
    assert found.counts == {"rows": 3}


def test_the_manifest_follows_the_contract(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _write(store)
    manifest = json.loads((tmp_path / "things" / "k1" / "manifest.json").read_text())
    assert manifest["kind"] == "things"
    assert manifest["digest"] == "k1"
    assert manifest["inputs"] == {"source": "abc"}
    assert manifest["files"]["a.txt"]["bytes"] == 5
    assert {"schema_version", "tool_version", "created_at", "counts"} <= set(manifest)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.write("things", "k1", {}) as draft:
        draft.file("a.txt").write_text("half")
        raise RuntimeError
    assert store.find("things", "k1") is None
    assert list((tmp_path / "things").iterdir()) == []


def test_a_second_writer_of_the_same_key_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _write(store, "first")
    _write(store, "again")
    found = store.find("things", "k1")
    assert found is not None
    assert found.file("a.txt").read_text() == "first"


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_changed_file_is_noticed(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    _write(store)
    file = tmp_path / "things" / "k1" / "a.txt"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("he")
    with pytest.raises(UserError, match=r"a\.txt is missing or was changed"):
        store.find("things", "k1")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": {"a.txt": {}}, "counts": {}}'])
def test_a_damaged_manifest_says_what_to_delete(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    _write(store)
    (tmp_path / "things" / "k1" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged") as caught:
        store.find("things", "k1")
    assert str(tmp_path / "things" / "k1") in caught.value.way_out


def test_a_killed_writer_leaves_nothing_that_exists_and_is_swept(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import pathlib, time
        from tasks.store import Store
        with Store(pathlib.Path({str(tmp_path)!r})).write("things", "k1", {{}}) as draft:
            draft.file("a.txt").write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    store = Store(tmp_path)
    assert store.find("things", "k1") is None
    assert len(list((tmp_path / "things").iterdir())) == 1
    _write(store)
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["k1"]


def test_a_live_writer_is_left_alone(tmp_path: Path) -> None:
    """Also one with the same process id, as a thread or another container has."""
    store = Store(tmp_path)
    with store.write("things", "k1", {}) as slow:
        slow.file("a.txt").write_text("slow")
        _write(store, "quick")
        assert slow.file("a.txt").read_text() == "slow"
    found = store.find("things", "k1")
    assert found is not None
    assert found.file("a.txt").read_text() == "quick"
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["k1"]


def test_unfinished_work_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    """The second waits until the first is done, and then finds what it has made."""
    store = Store(tmp_path)
    began, found = threading.Event(), []

    def second() -> None:
        began.set()
        with Store(tmp_path).working("things", "k1"):
            found.append(store.find("things", "k1"))

    waiting = threading.Thread(target=second)
    with store.working("things", "k1") as folder:
        (folder / "checkpoint").write_text("half")
        waiting.start()
        began.wait()
        waiting.join(0.3)
        assert waiting.is_alive()
        _write(store)
    waiting.join(30)
    assert found[0] is not None
    assert list((tmp_path / "work").iterdir()) == []


def test_work_that_fails_is_kept_for_the_next_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.working("things", "k1") as folder:
        (folder / "checkpoint").write_text("half")
        raise RuntimeError
    with store.working("things", "k1") as folder:
        assert (folder / "checkpoint").read_text() == "half"


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """A real file system of 256 KiB, filled to the brim."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        store = Store(tmp_path)
        with pytest.raises(UserError, match="no space left") as caught, store.write("big", "k", {}) as draft:
            draft.file("a.bin").write_bytes(bytes(1 << 20))
        assert "DETCOMPOSE_HOME" in caught.value.way_out
        assert store.find("big", "k") is None
        _write(store)
        assert store.find("things", "k1") is not None
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_that_cannot_grow_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """The same where nothing can be mounted: a process that may write 64 KiB a file and no more."""
    code = textwrap.dedent(
        f"""
        import pathlib, resource
        from composition.errors import UserError
        from tasks.store import Store
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        store = Store(pathlib.Path({str(tmp_path)!r}))
        try:
            with store.write("big", "k", {{}}) as draft:
                draft.file("a.bin").write_bytes(bytes(1 << 20))
        except UserError as error:
            print(error.problem)
        assert store.find("big", "k") is None
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no space left while writing" in done.stdout
    assert list((tmp_path / "big").iterdir()) == []


def test_digests_depend_on_values_not_on_key_order() -> None:
    assert digest_of({"a": 1, "b": [2, 3]}) == digest_of({"b": [2, 3], "a": 1})
    assert digest_of("a", "b") != digest_of("ab")


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_atomic(target, b"one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert time.time() - target.stat().st_mtime < 60
