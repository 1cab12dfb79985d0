"""Byte-level BPE inside the graph: MB/s against the `tokenizers` library and, where it is installed, keras-hub.

    python -m benchmarks.bpe

GPT-2's vocabulary (in Whisper tiny.en's tokenizer.json), the 20,000 lines of mixed text of the tests, batches of 1,000
lines on two threads, and the whole in one batch; every call is warm. The ids are compared on the way. Expected:
>= 2 MB/s on an idle machine. Where keras-hub and tensorflow-text are installed its tokenizer runs on one batch.
"""

import importlib.util
import json
import os

from benchmarks.side_by_side import THREADS, timed

os.environ.setdefault("RAYON_NUM_THREADS", str(THREADS))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import statistics
import tempfile
import time

import tensorflow as tf
from tokenizers import Tokenizer

from tests.tokenizers.corpus import mixed_lines
from tfhf.assets import fetch
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE

BATCH, ROUNDS = 1000, 5


def _speed(name, encode, batches, megabytes, rounds=ROUNDS):
    """Prints MB per second of the clock, and per second of a core, which other work on the machine changes less."""
    encode(batches[0])
    clock, core = [], []
    for _ in range(rounds):
        begin = time.process_time()
        clock.append(megabytes / timed(lambda: [encode(batch) for batch in batches]))
        core.append(megabytes / (time.process_time() - begin))
    print(f"{name:<28} {statistics.median(clock):6.2f} MB/s ({min(clock):.2f} to {max(clock):.2f})   "
          f"{statistics.median(core):6.2f} MB per core and second", flush=True)


def _saved(bpe, folder):
    module = tf.Module()
    module.encode = tf.function(lambda texts: dict(zip(("ids", "row_splits"), _parts(bpe.encode(texts)))),
                                input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, folder, signatures=module.encode)
    return tf.saved_model.load(folder).signatures["serving_default"]


def _parts(ragged):
    return ragged.values, ragged.row_splits


def main():
    """Prints one line for each."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    path = str(fetch("whisper-tiny.en") / "tokenizer.json")
    lines = mixed_lines()
    texts = [lines[start:start + BATCH] for start in range(0, len(lines), BATCH)]
    tensors = [tf.constant(batch) for batch in texts]
    megabytes = sum(len(line.encode("utf-8")) for line in lines) / 1e6
    library, bpe = Tokenizer.from_file(path), ByteLevelBPE.from_file(path)
    expected = [row.ids for row in library.encode_batch(lines, add_special_tokens=False)]
    found = [row for batch in tensors for row in bpe.encode(batch).to_list()]
    equal = sum(a == b for a, b in zip(found, expected, strict=True))
    print(f"TensorFlow {tf.__version__}; {len(lines)} lines, {megabytes:.2f} MB, {equal} lines with equal ids")
    _speed("in the graph, encode", bpe.encode, tensors, megabytes)
    _speed("the same, one batch", bpe.encode, [tf.constant(lines)], megabytes)
    ids = [bpe.encode(batch) for batch in tensors]
    decode = tf.function(bpe.decode)
    _speed("in the graph, decode", decode, ids, megabytes)
    with tempfile.TemporaryDirectory() as folder:
        _speed("in a SavedModel, encode", _saved(bpe, folder), tensors, megabytes)
    _speed("tokenizers, encode_batch", lambda batch: library.encode_batch(batch, add_special_tokens=False), texts,
           megabytes)
    if importlib.util.find_spec("keras_hub") and importlib.util.find_spec("tensorflow_text"):
        from keras_hub.tokenizers import BytePairTokenizer

        with open(path, encoding="utf-8") as file:
            model = json.load(file)["model"]
        peer = BytePairTokenizer(model["vocab"], [" ".join(pair) if isinstance(pair, list) else pair
                                                  for pair in model["merges"]])
        # It remembers words, so the lines that warm it up are not those that are timed, and it is timed once.
        peer(tensors[-1])
        begin = time.process_time()
        few, seconds = sum(len(line.encode("utf-8")) for line in texts[0]) / 1e6, timed(lambda: peer(tensors[0]))
        print(f"{'keras-hub, new lines':<28} {few / seconds:6.2f} MB/s   "
              f"{few / (time.process_time() - begin):6.2f} MB per core and second")


if __name__ == "__main__":
    main()
