"""A whole run in buckets of a real GCS server: records, training, checkpoints, kills, TensorBoard, evaluation, export.

TensorFlow's own gs:// client and Google's both run as on a TPU VM (tests/gcs_server.py). The long form puts every fault
on the road of every step.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests import toy_task
from tests.loudness_task import LoudnessTask, wav
from tests.toy_task import ToyTask
from tfhf import checkpoints
from tfhf.data import gcs as client
from tfhf.data import storage
from tfhf.data.verify import verify
from tfhf.data.writing import Dataset, write_split
from tfhf.export import export, load_exported
from tfhf.run import evaluate, train

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
PROCESS = """
import sys
from tests import test_run_gcs
test_run_gcs.write_and_train(sys.argv[1])
"""


def config_in(folder, steps=STEPS):
    """The toy run with its records in FOLDER/records and its output in FOLDER/run; its schedule is that of STEPS."""
    config = toy_task.run_config(Path("unused"), output=storage.join(folder, "run"), steps=steps)
    return config.override([f"data.path={storage.join(folder, 'records')}", f"optimizer.decay_steps={STEPS}"])


class Series(Dataset):
    """The toy task's examples of a seed, as a dataset that write_split can go on with after a kill."""

    name, record_type = "series", toy_task.SERIES

    def __init__(self, count, seed):
        self._count, self._seed = count, seed

    def options(self, split):
        return {"count": self._count, "seed": self._seed}

    def examples(self, split, start=0):
        yield from toy_task.examples(self._count, self._seed)[start:]

    def load(self, item):
        return item


def write_records(folder):
    """What toy_task.write_records writes, in more shards, and only what is not there yet."""
    for split, count, seed in (("train", 50, 0), ("validation", 21, 1)):
        write_split(Series(count, seed), storage.join(folder, "records"), split, workers=1, shard_bytes=2000)


def write_and_train(folder):
    """All that a killed process does again."""
    write_records(folder)
    train(ToyTask, config_in(folder))


def assert_same_run(folder, expected):
    """The last weights and the history, to the bit."""
    one, other = (safetensors.numpy.load(storage.read_bytes(
        storage.join(place, "run", "checkpoints", f"step-{STEPS:08d}", "weights.safetensors")))
        for place in (folder, expected))
    assert len(one) == len(other) > 4
    for name, as_here in zip(sorted(one), sorted(other), strict=True):   # "00003 PATH", PATH with Keras' counters
        np.testing.assert_array_equal(one[name], other[as_here], name)
    lines = [storage.read_bytes(storage.join(place, "run", "history.jsonl")) for place in (folder, expected)]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == STEPS + 2


def predictions(folder):
    evaluation = storage.join(folder, "run", "evaluation")
    return storage.read_bytes(storage.join(evaluation, f"validation-step-{STEPS:08d}", "predictions.jsonl"))


def logged_steps(folder, tag):
    """The steps of a scalar in all event files, read by TensorFlow through its own gs:// client."""
    paths = tf.io.gfile.glob(storage.join(folder, "run", "tensorboard", "*"))
    return [event.step for path in sorted(paths) for event in tf.compat.v1.train.summary_iterator(path)
            for value in event.summary.value if value.tag == tag]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Folder of the same run on a disk, without a stop."""
    folder = str(tmp_path_factory.mktemp("local"))
    write_records(folder)
    train(ToyTask, config_in(folder))
    evaluate(ToyTask, config_in(folder))
    return folder


def check_whole_road(bucket, local):
    """Write, train to step 6, go on to the end, evaluate, look at TensorBoard, export: as on the disk, bit for bit."""
    write_records(bucket)
    for split, count in (("train", 50), ("validation", 21)):
        assert verify(f"{bucket}/records/{split}", toy_task.SERIES)["records"] == count
        for name in storage.list_names(f"{bucket}/records/{split}"):
            here = storage.read_bytes(f"{bucket}/records/{split}/{name}")
            assert here == storage.read_bytes(storage.join(local, "records", split, name)), name
    train(ToyTask, config_in(bucket, steps=6))
    history = train(ToyTask, config_in(bucket))
    assert history["start_step"] == 6 and history["step"] == list(range(1, STEPS + 1))
    assert [step for step, _ in checkpoints.list_checkpoints(f"{bucket}/run")] == [6, 10, 12]
    assert_same_run(bucket, local)
    results = evaluate(ToyTask, config_in(bucket))
    assert results["examples"] == 21 and predictions(bucket) == predictions(local)
    metrics = json.loads(storage.read_bytes(f"{bucket}/run/evaluation/validation-step-{STEPS:08d}/metrics.json"))
    assert metrics["metrics"] == results
    assert logged_steps(bucket, "loss") == [4, 6, 8, 12] and logged_steps(bucket, "eval_loss") == [6, 12]
    task = LoudnessTask.tiny()
    model = task.build_model()
    assert export(task, model, f"{bucket}/exports") == f"{bucket}/exports/loudness/1"
    answer = load_exported(f"{bucket}/exports/loudness")(wav=[wav()])
    expected = task.signatures(model)["serving_default"](tf.constant([wav()]))
    np.testing.assert_allclose(answer["level"], expected["level"].numpy(), rtol=1e-5)


def test_the_whole_road_in_a_bucket(gcs, local):
    check_whole_road(gcs.new_bucket(), local)
    # TensorBoard's events went up through TensorFlow's own client.
    assert any(re.match("POST /upload.*tensorboard.*tfevents", line) for line, _ in gcs.requests)


def test_a_run_without_the_right_to_write_is_one_error_within_10_s(gcs, local):
    bucket = gcs.new_bucket()
    write_records(bucket)
    begin = time.monotonic()
    with gcs.fault("status", match="^(POST|PUT|DELETE)", status=403):
        with pytest.raises(storage.StorageError, match=f"{bucket}/run/: no permission .403"):
            train(ToyTask, config_in(bucket))
    with pytest.raises(storage.StorageError, match="gs://no-such-bucket: there is no such bucket"):
        train(ToyTask, config_in("gs://no-such-bucket"))
    assert time.monotonic() - begin < 10


class Killed:
    """PROCESS, killed by SIGKILL as soon as the server hears a request that matches."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        self.process = subprocess.Popen([sys.executable, "-c", PROCESS, folder], cwd=ROOT, env=environment,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def kill_at(self, gcs, match, count=1):
        """Kills it at the count-th such request from now on."""
        first = len(gcs.requests)
        while self.process.poll() is None:
            if sum(bool(re.search(match, line)) for line, _ in gcs.requests[first:]) >= count:
                os.kill(self.process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        _, errors = self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL, errors[-3000:]


def test_killed_while_a_checkpoint_goes_up_it_goes_on(gcs, local, capfd):
    bucket = gcs.new_bucket()
    moment = "^POST /upload.*step-00000010/optimizer.safetensors"
    with gcs.fault("slow", match=moment, seconds=0.5):
        Killed(bucket).kill_at(gcs, moment)
    write_and_train(bucket)
    assert f"{bucket}/run: going on from step 5" in capfd.readouterr().err
    assert_same_run(bucket, local)


FAULTS = {
    "503": ("status", {"status": 503, "share": 0.1}),
    "429": ("status", {"status": 429, "share": 0.1}),
    "cut": ("cut", {"share": 0.1}),
    "lost": ("lost", {"share": 0.1}),
    "slow": ("slow", {"seconds": 0.2}),
    "stall": ("stall", {"seconds": 5.0, "share": 0.02}),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", FAULTS)
def test_the_whole_road_with_each_fault(gcs, local, monkeypatch, name):
    monkeypatch.setattr(client, "TIMEOUT_S", (2.0, 2.0))   # so that a stall is longer than the client's patience
    kind, options = FAULTS[name]
    begin, first = time.monotonic(), len(gcs.requests)
    bucket = gcs.new_bucket()
    with gcs.fault(kind, match="bucket", **options) as fault:
        check_whole_road(bucket, local)
    print(f"\n{name}: {fault.hits} of {len(gcs.requests) - first} requests struck, {time.monotonic() - begin:.1f} s")
    assert fault.hits >= 5


@pytest.mark.nightly
def test_killed_at_every_kind_of_upload_it_goes_on(gcs, local):
    """Shards, indexes, manifests, checkpoints, TensorBoard; each kill while the request is under way."""
    moments = ["^POST /upload.*tfrecord", "^POST /upload.*index", "^POST /upload.*manifest", "^POST /upload.*weights",
               "^POST /upload.*optimizer", "^POST /upload.*state.json", "^POST /upload.*history", "^POST.*tfevents",
               "^GET.*tfrecord", "^POST /upload.*config.json"]
    bucket = gcs.new_bucket()
    for moment in moments:
        with gcs.fault("slow", match=moment, seconds=0.3) as fault:
            Killed(bucket).kill_at(gcs, moment)
        print(f"\nkilled at {moment}: {fault.hits} under way")
    write_and_train(bucket)
    assert_same_run(bucket, local)
