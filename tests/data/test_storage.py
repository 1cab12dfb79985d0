"""Buckets that do not answer or do not allow: one clear error, soon. A real server is not needed for that."""

import threading

import pytest
import tensorflow as tf

from tfhf.data import storage
from tfhf.data.records import RecordReader, RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.storage import StorageError


@pytest.fixture(autouse=True)
def forget_buckets(monkeypatch):
    monkeypatch.setattr(storage, "_checked_buckets", set())


def test_no_permission_is_one_error_that_names_the_bucket(monkeypatch):
    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, "403 Forbidden")

    monkeypatch.setattr(tf.io.gfile, "exists", refuse)
    with pytest.raises(StorageError, match="gs://secret: PermissionDeniedError: 403 Forbidden. Expected"):
        RecordReader("gs://secret/records/train", SPEECH_TEXT)
    with pytest.raises(StorageError, match="gs://secret: "):
        RecordWriter("gs://secret/records", "train", SPEECH_TEXT)


def test_a_bucket_that_does_not_answer_is_given_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(tf.io.gfile, "exists", lambda path: release.wait(30))
    monkeypatch.setattr(storage, "ACCESS_TIMEOUT_S", 0.1)
    with pytest.raises(StorageError, match="gs://silent: no answer within 0 s"):
        RecordReader("gs://silent/records/train", SPEECH_TEXT)
    release.set()


def test_permission_lost_later_is_named_too(monkeypatch):
    monkeypatch.setattr(tf.io.gfile, "exists", lambda path: True)

    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, "403")

    monkeypatch.setattr(tf.io.gfile, "stat", refuse)
    with pytest.raises(StorageError, match="gs://b/x: no permission"):
        storage.size("gs://b/x")


def test_records_through_the_remote_code(tmp_path, monkeypatch):
    """tf.io.gfile also serves file://, so the code for gs:// runs here on a folder."""
    out = f"file://{tmp_path}/out"
    with RecordWriter(out, "train", SPEECH_TEXT, shard_bytes=500) as writer:
        for number in range(5):
            writer.write({"id": f"a{number}", "audio": [0.5] * 100, "text": str(number)})
    with RecordReader(out + "/train", SPEECH_TEXT) as reader:
        assert [int(SPEECH_TEXT.decode(reader.read(n))["text"].numpy()) for n in (4, 0)] == [4, 0]
    with RecordReader(tmp_path / "out" / "train", SPEECH_TEXT) as reader:
        assert len(reader) == 5
    assert storage.join("gs://a/b/", "c", "d") == "gs://a/b/c/d"
