"""The writer's driver: parallel, in order, resumed after SIGKILL to the very same bytes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tfhf.data.audio import AudioError
from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.data.writing import Dataset, write_split


class Noise(Dataset):
    """40 clips of noise; some may be bad, and each may take its time."""

    name = "noise"
    licence = "CC0"

    def __init__(self, bad=(), pause_s=0.0, clips=40):
        self.bad, self.pause_s, self.clips = bad, pause_s, clips
        self.loaded = []

    def options(self, split):
        return {"clips": self.clips}

    def examples(self, split, start=0):
        return ({"id": f"n{number}", "text": str(number)} for number in range(start, self.clips))

    def load(self, item):
        time.sleep(self.pause_s)
        number = int(item["text"])
        if number in self.bad:
            raise AudioError(f"n{number}.wav: truncated")
        self.loaded.append(number)
        return {**item, "audio": np.random.default_rng(number).uniform(-1, 1, 100 + 10 * number)}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def write(out, dataset, **options):
    lines = []
    manifest = write_split(dataset, out, "train", workers=4, shard_bytes=4000, log=lines.append, **options)
    return manifest, lines


def test_order_and_bytes_do_not_depend_on_threads(tmp_path):
    write(tmp_path / "a", Noise())
    write_split(Noise(), tmp_path / "b", "train", workers=1, shard_bytes=4000, log=lambda line: None)
    assert contents(tmp_path / "a" / "train") == contents(tmp_path / "b" / "train")
    with RecordReader(tmp_path / "a" / "train", SPEECH_TEXT) as reader:
        assert [SPEECH_TEXT.decode(reader.read(n))["text"].numpy() for n in range(40)] == [b"%d" % n for n in range(40)]


def test_sigkill_then_the_same_command_gives_the_same_bytes(tmp_path):
    write(tmp_path / "whole", Noise(bad=(7, 39)), skip_bad=2)
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
        from test_writing import Noise, write
        write({str(tmp_path / 'killed')!r}, Noise(bad=(7, 39), pause_s=0.1), skip_bad=2)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    folder = tmp_path / "killed" / "train"
    deadline = time.monotonic() + 120
    while not (folder / "train-00002.index").exists():
        assert process.poll() is None and time.monotonic() < deadline, "the writer ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(RecordError, match="interrupted"):
        RecordReader(folder, SPEECH_TEXT)
    dataset = Noise(bad=(7, 39))
    _, lines = write(tmp_path / "killed", dataset, skip_bad=2)
    assert "whole shards" in lines[0]
    assert 0 not in dataset.loaded and len(dataset.loaded) < 30   # nothing of the whole shards was made again
    assert contents(folder) == contents(tmp_path / "whole" / "train")


@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_a_damaged_shard_of_a_killed_run_is_written_again(tmp_path, damage):
    write(tmp_path / "whole", Noise())
    write(tmp_path / "killed", Noise())
    folder = tmp_path / "killed" / "train"
    (folder / "manifest.json").unlink()
    path = folder / "train-00001.tfrecord"
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        data[50] ^= 1
        path.write_bytes(data[:-10] if damage == "cut" else data)
    (folder / "train-00099.tfrecord.partial").write_bytes(b"half")
    write(tmp_path / "killed", Noise())
    assert contents(folder) == contents(tmp_path / "whole" / "train")


def test_complete_records_are_left_alone(tmp_path):
    write(tmp_path, Noise())
    dataset = Noise()
    _, lines = write(tmp_path, dataset)
    assert "already complete" in lines[-1] and not dataset.loaded


def test_other_options_are_refused_or_start_anew(tmp_path):
    write(tmp_path, Noise())
    with pytest.raises(RecordError, match=r"clips 40 \(now 30\)"):
        write(tmp_path, Noise(clips=30))
    (tmp_path / "train" / "manifest.json").unlink()
    with pytest.raises(RecordError, match=r"unfinished work.*clips 40 \(now 30\)"):
        write(tmp_path, Noise(clips=30))
    manifest, _ = write(tmp_path, Noise(clips=30), overwrite=True)
    assert manifest["count"] == 30


def test_bad_items_stop_the_writer_or_are_listed(tmp_path):
    with pytest.raises(AudioError, match="n7.wav"):
        write(tmp_path, Noise(bad=(7, 20)))
    assert not (tmp_path / "train" / "manifest.json").exists()
    with pytest.raises(AudioError, match="n20.wav"):
        write(tmp_path, Noise(bad=(7, 20)), skip_bad=1)
    manifest, lines = write(tmp_path, Noise(bad=(7, 20)), skip_bad=2)
    assert manifest["skipped"] == [["n7", "n7.wav: truncated"], ["n20", "n20.wav: truncated"]]
    assert manifest["count"] == 38 and json.dumps(read_manifest(tmp_path / "train")) == json.dumps(manifest)
    assert any("n20.wav" in line for line in lines)
