"""gs:// against a real server on the loopback: the operations, TensorFlow's view of them, each fault, clear errors."""

import concurrent.futures
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data import gcs as client
from tfhf.data import storage
from tfhf.data.records import RecordReader, RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.storage import StorageError
from tfhf.data.verify import verify

NOISE = np.random.default_rng(0).bytes(5_000_000)


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return request.getfixturevalue("gcs").new_bucket()


def test_a_bucket_behaves_as_a_folder(folder, tmp_path):
    run = storage.join(folder, "run")
    assert storage.list_names(run) == [] and not storage.exists(run)
    storage.make_folder(run)
    storage.make_folder(run)
    assert storage.exists(run) and storage.list_names(run) == [] and storage.list_names(folder) == ["run"]
    path = storage.join(run, "ä b#?.bin")
    storage.write_bytes(path, NOISE)
    assert storage.exists(path) and not storage.exists(path[:-1])
    assert (storage.size(path), storage.read_bytes(path)) == (len(NOISE), NOISE)
    assert storage.read_range(path, 1000, 3) == NOISE[1000:1003]
    assert storage.read_range(path, len(NOISE) - 2, 10) == NOISE[-2:]
    assert storage.read_range(path, len(NOISE), 10) == storage.read_range(path, 0, 0) == b""
    pieces = list(storage.read_chunks(path, 700_000))
    assert b"".join(pieces) == NOISE and [len(piece) for piece in pieces] == [700_000] * 7 + [100_000]
    storage.download(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == NOISE
    storage.write_bytes(path, b"")
    assert storage.size(path) == 0 and storage.read_bytes(path) == b"" and list(storage.read_chunks(path)) == []
    storage.make_folder(storage.join(run, "inner"))
    storage.write_bytes(storage.join(run, "inner", "x"), b"x")
    assert storage.list_names(run) == ["inner", "ä b#?.bin"]
    storage.remove(path)
    for gone in (storage.remove, storage.size, storage.read_bytes, lambda p: storage.read_range(p, 0, 1),
                 lambda p: list(storage.read_chunks(p))):
        with pytest.raises(FileNotFoundError, match="b#"):
            gone(path)
    storage.remove_folder(run)
    storage.remove_folder(run)
    assert not storage.exists(run)


def test_an_unfinished_file_is_not_there(folder):
    path = storage.join(folder, "shard")
    file = storage.AtomicFile(path)
    file.write(b"half")
    assert not storage.exists(path)
    file.discard()
    assert storage.list_names(folder) == []


def test_tensorflow_and_storage_see_the_same(gcs):
    bucket = gcs.new_bucket()
    with tf.io.gfile.GFile(f"{bucket}/by/tensorflow", "wb") as file:
        file.write(NOISE)
    storage.write_bytes(f"{bucket}/by/storage", NOISE[::-1])
    storage.make_folder(f"{bucket}/empty")
    assert storage.list_names(f"{bucket}/by") == tf.io.gfile.listdir(f"{bucket}/by") == ["storage", "tensorflow"]
    assert storage.read_bytes(f"{bucket}/by/tensorflow") == NOISE
    assert tf.io.gfile.GFile(f"{bucket}/by/storage", "rb").read() == NOISE[::-1]
    assert tf.io.gfile.isdir(f"{bucket}/empty") and storage.exists(f"{bucket}/by")
    assert any(line.startswith("PUT /upload") for line, _ in gcs.requests)


def write_records(out, count=40):
    with RecordWriter(out, "train", SPEECH_TEXT, shard_bytes=4000) as writer:
        for number in range(count):
            audio = np.random.default_rng(number).uniform(-1, 1, 200 + number)
            writer.write({"id": f"a{number}", "audio": audio, "text": str(number)})


def test_records_in_a_bucket_are_the_local_ones(gcs, tmp_path):
    bucket = gcs.new_bucket()
    write_records(f"{bucket}/records")
    write_records(tmp_path)
    names = sorted(os.listdir(tmp_path / "train"))
    assert storage.list_names(f"{bucket}/records/train") == names and len(names) > 8
    for name in names:
        assert storage.read_bytes(f"{bucket}/records/train/{name}") == (tmp_path / "train" / name).read_bytes()
    assert verify(f"{bucket}/records/train", SPEECH_TEXT)["records"] == 40


# "stall" is longer than the client's patience below, "slow" shorter.
FAULTS = {
    "503": ("status", {"status": 503, "share": 0.3}),
    "429": ("status", {"status": 429, "share": 0.3}),
    "cut": ("cut", {"share": 0.3}),
    "lost": ("lost", {"share": 0.3}),
    "slow": ("slow", {"seconds": 0.2}),
    "stall": ("stall", {"seconds": 3.0, "times": 4}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_with_each_fault_the_bytes_are_the_same(gcs, monkeypatch, name):
    """Uploads in one request and in pieces, lists, whole reads, ranges and deletes, all while the server misbehaves."""
    monkeypatch.setattr(client, "TIMEOUT_S", (1.0, 1.0))
    monkeypatch.setattr(client, "UPLOAD_CHUNK", 1 << 20)
    bucket = gcs.new_bucket()
    kind, options = FAULTS[name]
    with gcs.fault(kind, match="bucket", **options) as fault:
        files = {f"{bucket}/f/{n}": NOISE[n:n + 20_000] for n in range(8)}
        for path, data in files.items():
            storage.write_bytes(path, data)
        storage.write_bytes(f"{bucket}/big", NOISE)
        assert storage.list_names(bucket) == ["big", "f"] and len(storage.list_names(f"{bucket}/f")) == 8
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(storage.read_bytes, files)) == list(files.values())
            starts = range(0, 5_000_000, 499_999)
            ranges = pool.map(lambda start: storage.read_range(f"{bucket}/big", start, 10_000), starts)
            assert list(ranges) == [NOISE[start:start + 10_000] for start in starts]
        assert b"".join(storage.read_chunks(f"{bucket}/big", 1 << 20)) == NOISE
        storage.remove(f"{bucket}/f/3")
        assert not storage.exists(f"{bucket}/f/3")
    assert fault.hits >= 3
    assert gcs.objects(bucket)["big"][0] == len(NOISE)


def test_a_turned_bit_on_the_way_up_is_noticed(gcs):
    bucket = gcs.new_bucket()
    with gcs.fault("corrupt", match="^(POST|PUT) /upload") as fault, pytest.raises(StorageError, match=f"{bucket}/x: "):
        storage.write_bytes(f"{bucket}/x", NOISE)
    assert fault.hits == 1


def test_an_object_that_is_replaced_while_it_is_read_is_noticed(gcs):
    path = gcs.new_bucket() + "/x"
    storage.write_bytes(path, NOISE)
    chunks = storage.read_chunks(path, 100_000)
    next(chunks)
    storage.write_bytes(path, NOISE[::-1])
    with pytest.raises(FileNotFoundError, match=path):
        list(chunks)


def check_one_error(action, match, seconds=10.0):
    begin = time.monotonic()
    with pytest.raises(StorageError, match=match):
        action()
    assert time.monotonic() - begin < seconds


def test_a_wrong_bucket_is_one_error_at_once(gcs):
    for action in (lambda: RecordReader("gs://no-such-bucket/records/train", SPEECH_TEXT),
                   lambda: RecordWriter("gs://no-such-bucket/records", "train", SPEECH_TEXT),
                   lambda: storage.make_folder("gs://no-such-bucket/run"),
                   lambda: storage.write_bytes("gs://no-such-bucket/run/x", b"x")):
        before = len(gcs.requests)
        check_one_error(action, "gs://no-such-bucket: there is no such bucket .wanted for gs://no-such-bucket/r", 3)
        assert len(gcs.requests) - before <= 3


def test_a_missing_right_is_one_error_at_once(gcs):
    bucket = gcs.new_bucket()
    with gcs.fault("status", match=bucket.removeprefix("gs://"), status=403) as fault:
        check_one_error(lambda: RecordReader(f"{bucket}/records/train", SPEECH_TEXT),
                        f"{bucket}/records/train/manifest.json: no permission .403.*Expected credentials", 3)
        check_one_error(lambda: RecordWriter(f"{bucket}/records", "train", SPEECH_TEXT),
                        f"{bucket}/records/train/: no permission", 3)
    assert 1 < fault.hits <= 6


def test_reading_only_is_enough_to_read(gcs):
    bucket = gcs.new_bucket()
    write_records(f"{bucket}/records")
    client.forget()
    with gcs.fault("status", match="^(POST|PUT|DELETE)", status=403):
        with RecordReader(f"{bucket}/records/train", SPEECH_TEXT) as reader:
            assert len(reader.read(17)) > 400
        with pytest.raises(StorageError, match=f"{bucket}/other/train/: no permission"):
            RecordWriter(f"{bucket}/other", "train", SPEECH_TEXT)


def test_a_service_that_is_down_is_given_up(gcs, monkeypatch, capfd):
    monkeypatch.setattr(client, "ACCESS_S", 1.0)
    bucket = gcs.new_bucket()
    with gcs.fault("status", status=503):
        check_one_error(lambda: storage.exists(f"{bucket}/x"), f"{bucket}: no answer within 3 s .the last answer: 503")
    storage.write_bytes(f"{bucket}/x", b"x")
    monkeypatch.setattr(client, "RETRY_S", 1.0)
    with gcs.fault("status", status=503):
        check_one_error(lambda: storage.read_bytes(f"{bucket}/x"), f"{bucket}/x: given up after 1 s of trying: 503")
    assert "trying again" in capfd.readouterr().err


def test_a_network_that_is_silent_is_given_up(gcs, monkeypatch):
    monkeypatch.setattr(client, "ACCESS_S", 0.5)
    bucket = gcs.new_bucket()
    with gcs.fault("slow", seconds=8.0):
        check_one_error(lambda: storage.exists(f"{bucket}/x"), f"{bucket}: no answer within 2 s. Expected a bucket", 4)


def test_another_kind_of_url_is_refused():
    for path in ("s3://bucket/x", "gs:///x"):
        with pytest.raises(StorageError, match=f"{path}: expected a local path or gs://BUCKET/NAME"):
            storage.read_bytes(path)


def test_long_uploads_show_their_progress(gcs, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(client, "_PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(client, "UPLOAD_CHUNK", 1 << 20)
    bucket = gcs.new_bucket()
    files = {}
    for number in range(3):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(NOISE[number:])
        files[str(path)] = f"{bucket}/{number}.bin"
    storage.upload(files)
    assert f"uploading {bucket}/0.bin and 2 more: 0 of 15 MB" in capfd.readouterr().err
    for local, path in files.items():
        assert storage.read_bytes(path) == open(local, "rb").read()


@pytest.mark.nightly
def test_reading_records_at_random_is_quicker_than_through_tensorflow(gcs):
    """What the input pipeline does: 10 kB at a time, 32 under way. Prints both rates."""
    path, starts = gcs.new_bucket() + "/x", list(range(0, 4_900_000, 49_000))
    storage.write_bytes(path, NOISE)

    def through_tensorflow(start):
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(start)
            return file.read(10_000)

    def rate(read):
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            begin = time.perf_counter()
            assert [data[:4] for data in pool.map(read, starts)] == [NOISE[start:start + 4] for start in starts]
            return len(starts) / (time.perf_counter() - begin)

    slow, fast = rate(through_tensorflow), rate(lambda start: storage.read_range(path, start, 10_000))
    print(f"\n10 kB reads from gs://: {fast:.0f}/s, through tf.io.gfile {slow:.0f}/s, ratio {fast / slow:.1f}")
    assert fast > 2 * slow
