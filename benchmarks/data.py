"""Records -> batches of padded float arrays, per core, against the gsoc-wav2vec2 loader and `datasets` with torch.

    python -m benchmarks.data

One set of clips for all: the Asterisk prompts of the train split up to 15.375 s (tfrecords/asterisk.py). Each loader
runs in a process of its own that is pinned to one core, by turns; what is compared is the time of a core per example,
so that others on the machine disturb little. Batches of 32, labels as int32 [32, 256].

  ours      training_batches: int16 in records, shuffled globally, padded to seven buckets, audio read straight into
            the batch
  one row   the same with one bucket: every clip padded to 15.375 s
  gsoc      its way: float32 tensors by tf.io.serialize_tensor in Examples, read in order, padded_batch to 246,000
  datasets  its way: map to float32 `input_values` beforehand (not timed), numpy format, torch DataLoader with shuffle,
            padded to the longest clip of the batch

Goals: ours at least 3 times as fast as gsoc and 1.5 times as fast as datasets, stored in at most 0.55 of gsoc's bytes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import tensorflow as tf

from tfhf.assets import fetch
from tfhf.data.pipeline import training_batches
from tfhf.data.records import RecordReader
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.throughput import measure
from tfhf.data.writing import write_split
from tfhf.task import Task
from tfrecords.asterisk import Asterisk

BATCH, MAX_SAMPLES, MAX_LABELS = 32, 246_000, 256
BUCKETS = tuple(round(16_000 * seconds) for seconds in (1, 1.5, 2, 3, 5, 8)) + (MAX_SAMPLES,)
ROUNDS, SECONDS, WARM_UP = 3, 3.0, 300
GSOC, ARROW = "gsoc.tfrecord", "arrow"


class Clips(Task):
    """Audio and text as arrays, a batch at a time."""

    record_type, batched = SPEECH_TEXT, True

    def __init__(self, buckets):
        self.buckets = buckets

    def preprocess(self, example, bucket, training):
        labels = tf.cast(tf.io.decode_raw(example["text"], tf.uint8, fixed_length=MAX_LABELS), tf.int32)
        return example["audio"], labels, tf.ones([BATCH])


def ours(folder, buckets=BUCKETS):
    """Batches of this library."""
    return iter(training_batches(Clips(buckets), folder, "train", batch_size=BATCH, seed=0, drop_longer=True))


def gsoc(folder):
    """Batches in gsoc-wav2vec2's way."""
    def parse(record):
        names = ("speech", "label")
        parsed = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature((), tf.string) for name in names})
        return tf.io.parse_tensor(parsed["speech"], tf.float32), tf.io.parse_tensor(parsed["label"], tf.int32)

    dataset = tf.data.TFRecordDataset([os.path.join(folder, GSOC)]).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.map(lambda speech, label: (speech[:MAX_SAMPLES], label[:MAX_LABELS])).repeat()
    dataset = dataset.padded_batch(BATCH, (MAX_SAMPLES, MAX_LABELS), (0.0, 0), drop_remainder=True)
    return iter(dataset.prefetch(tf.data.AUTOTUNE))


def datasets(folder):
    """Batches of Hugging Face datasets through a torch DataLoader."""
    import torch
    from datasets import load_from_disk
    from torch.nn.utils.rnn import pad_sequence

    def collate(examples):
        columns = ([torch.from_numpy(np.array(e[name])) for e in examples] for name in ("input_values", "labels"))
        return [pad_sequence(column, batch_first=True) for column in columns]

    torch.set_num_threads(1)
    clips = load_from_disk(os.path.join(folder, ARROW)).with_format("numpy")
    loader = torch.utils.data.DataLoader(clips, BATCH, shuffle=True, collate_fn=collate, drop_last=True)
    while True:
        yield from loader


LOADERS = {"ours": ours, "one row": lambda folder: ours(folder, (MAX_SAMPLES,)), "gsoc": gsoc, "datasets": datasets}


def prepare(folder):
    """Writes the clips in every loader's own form; -> bytes of our records and of gsoc's, of the same clips."""
    from datasets import Dataset

    write_split(Asterisk(fetch("asterisk-prompts")), folder, "train", log=lambda line: None)
    reader = RecordReader(os.path.join(folder, "train"), SPEECH_TEXT)
    kept = np.flatnonzero(reader.lengths <= MAX_SAMPLES)
    examples = [SPEECH_TEXT.decode(record) for record in reader.read_many(kept)]

    def clips():
        for example in examples:
            yield {"audio": example["audio"].numpy(), "text": example["text"].numpy().decode()}

    def labels(text):
        return np.frombuffer(text.encode()[:MAX_LABELS], np.uint8).astype(np.int32)

    def bytes_feature(tensor):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(tensor).numpy()]))

    with tf.io.TFRecordWriter(os.path.join(folder, GSOC)) as writer:
        for clip in clips():
            features = {"speech": bytes_feature(clip["audio"]), "label": bytes_feature(labels(clip["text"]))}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    mapped = Dataset.from_generator(clips, cache_dir=os.path.join(folder, "cache")).with_format("numpy").map(
        lambda clip: {"input_values": clip["audio"], "labels": labels(str(clip["text"]))},
        remove_columns=["audio", "text"])
    mapped.save_to_disk(os.path.join(folder, ARROW))
    return int(reader.record_bytes[kept].sum()), os.path.getsize(os.path.join(folder, GSOC)), len(kept)


def run_one(name, folder):
    """Measures one loader on one core and prints its figures as JSON; runs in a process of its own."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    found = measure(LOADERS[name](folder), lambda batch: BATCH, SECONDS, 0.0, WARM_UP)
    print(json.dumps({"cpu": found.cpu_s_per_example, "wall": 1 / found.examples_per_s}))


def main():
    """Runs all by turns and prints medians and ratios."""
    if len(sys.argv) == 3:
        run_one(*sys.argv[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        own_bytes, gsoc_bytes, count = prepare(folder)
        rounds = {name: [] for name in LOADERS}
        for _ in range(ROUNDS):
            for name, found in rounds.items():
                command = [sys.executable, "-m", "benchmarks.data", name, folder]
                lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
                found.append(json.loads(lines[-1]))
    print(f"TensorFlow {tf.__version__}; {count} clips, batches of {BATCH}, one core, medians of {ROUNDS} rounds")
    for name, found in rounds.items():
        cpu, wall = (1e6 * statistics.median(one[what] for one in found) for what in ("cpu", "wall"))
        print(f"{name:<10} {cpu:7.1f} µs of a core per clip   {1e6 / cpu:8.0f} clips/s a core   wall {wall:7.1f} µs")
    for name, peer in (("ours", "gsoc"), ("one row", "gsoc"), ("ours", "datasets")):
        ratio = statistics.median(theirs["cpu"] / mine["cpu"] for mine, theirs in zip(rounds[name], rounds[peer]))
        print(f"{peer} / {name}: {ratio:.2f} times as fast")
    print(f"stored: {own_bytes / 1e6:.1f} MB against {gsoc_bytes / 1e6:.1f} MB: {own_bytes / gsoc_bytes:.3f}")


if __name__ == "__main__":
    main()
