"""Local paths; what a folder and a bucket share is in test_gcs.py."""

import os
import subprocess
import sys

import pytest

from tfhf.data import storage
from tfhf.data.storage import FolderLock, StorageError


def test_paths_are_joined_by_their_kind():
    assert storage.join("gs://a/b/", "c", "d") == "gs://a/b/c/d"
    assert storage.join("a", "b") == os.path.join("a", "b")
    assert storage.is_remote("gs://a") and not storage.is_remote("a/b")


def test_a_local_file_appears_with_its_commit_only(tmp_path):
    file = storage.AtomicFile(tmp_path / "x")
    file.write(b"half")
    assert not (tmp_path / "x").exists()
    file.write(b" and whole")
    file.commit()
    assert storage.list_names(tmp_path) == ["x"] and storage.read_bytes(tmp_path / "x") == b"half and whole"


def test_a_second_writer_is_kept_out_until_the_first_has_gone(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(StorageError, match="another writer is at work in this folder"):
        FolderLock(tmp_path)
    first.close()
    FolderLock(tmp_path).close()


def test_local_work_imports_neither_tensorflow_nor_googles_client(tmp_path):
    code = ("import sys; from tfhf.data import storage; storage.write_bytes(sys.argv[1], b'x'); "
            "storage.read_bytes(sys.argv[1]); "
            "print([name for name in ('tensorflow', 'google.cloud.storage') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_long_names_end_in_a_hash():
    assert storage.short_name("a" * 120) == "a" * 120
    first, second = storage.short_name("न" * 200), storage.short_name("न" * 201)
    assert first != second and first.startswith("ननन") and len(first.encode()) <= 120
    assert len(storage.short_name("\udcff" * 100).encode("utf-8", "backslashreplace")) <= 120
