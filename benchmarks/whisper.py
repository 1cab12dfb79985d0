"""Whisper tiny.en against transformers on torch: the same weights, the same clips, 2 threads, in one run.

    python -m benchmarks.whisper

Prints wall time of `generate` over the 50 test prompts at batch 1 and 8, and of a train step at batch 4 with 64 labels,
ours and theirs, and the ratio ours / theirs. Compile time stands apart. Both sides are warm; rounds alternate, and the
median round counts, because these machines are noisy. Claims: generate <= 0.8, train step <= 1.0.
"""

import tempfile

from benchmarks.side_by_side import THREADS, compare, make_trainer, use_threads  # first: it sets the threads

import keras
import numpy as np
import tensorflow as tf
import torch
import transformers

from tfhf.assets import fetch
from tfhf.data.audio import load_audio
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfrecords.asterisk import Asterisk

NEW_TOKENS = 128


def batches(array, size):
    """Batches of `size`; the last one is filled up with its own clips, for both sides alike."""
    for start in range(0, len(array), size):
        yield array[np.minimum(np.arange(start, start + size), len(array) - 1)]


def main():
    """Runs all comparisons."""
    use_threads()
    transformers.logging.set_verbosity_error()
    model = WhisperForConditionalGeneration.from_pretrained(fetch("whisper-tiny.en"))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor()
    clips = [load_audio(item["audio"]) for item in Asterisk(fetch("asterisk-prompts")).examples("test")]
    features = extractor(clips, sampling_rate=16000, return_tensors="np").input_features
    print(f"{len(clips)} prompts, {sum(map(len, clips)) / 16000:.0f} s of speech; TensorFlow {tf.__version__}, Keras "
          f"{keras.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, {THREADS} threads")

    theirs.eval()
    for size in (1, 8):
        answers = {"ours": [], "theirs": []}

        def run_ours():
            answers["ours"] = [row for part in batches(features, size)
                               for row in model.generate(part, max_new_tokens=NEW_TOKENS)]

        def run_theirs():
            with torch.no_grad():
                answers["theirs"] = [row for part in batches(features, size) for row in
                                     theirs.generate(torch.tensor(part), max_new_tokens=NEW_TOKENS).numpy()]

        compare(f"generate, batch {size}", run_ours, run_theirs)
        equal = sum([t for t in mine if t < 50256] == [t for t in other if t < 50256]
                    for mine, other in zip(answers["ours"], answers["theirs"]))
        print(f"  the same tokens in {min(equal, len(features))} of {len(features)} prompts")

    rng = np.random.default_rng(0)
    ids, labels = (rng.integers(0, 50000, (4, 64)).astype("int32") for _ in range(2))
    inputs = {"input_features": features[:4], "decoder_input_ids": ids}
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-6)
    theirs.train()

    def torch_step():
        optimizer.zero_grad()
        theirs(input_features=torch.tensor(features[:4]), decoder_input_ids=torch.tensor(ids).long(),
               labels=torch.tensor(labels).long()).loss.backward()
        optimizer.step()

    for jit_compile in (False, True):
        step = tf.function(make_trainer(model, TokenCrossEntropy()).train_step, jit_compile=jit_compile)
        name = "XLA" if jit_compile else "graph"
        data = tf.nest.map_structure(tf.constant, (inputs, labels, np.ones(4, "float32")))
        compare(f"train step, batch 4, {name}", lambda: float(step(data)["loss"]), torch_step, rounds=5)


if __name__ == "__main__":
    main()
