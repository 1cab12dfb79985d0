"""wav2vec2, base shape, against transformers on torch: the same weights, the same clips, 2 threads, in one run.

    python -m benchmarks.wav2vec2          times on the CPU
    python -m benchmarks.wav2vec2 --tpu    memory of the recipe's step on a TPU v3 core (extra preflight)

Prints the wall time of a forward pass over 15.375 s of audio (246,000 samples) and of a CTC train step on two such
clips, ours (graph and XLA) and theirs. Claims: both ratios at most 1.0.
"""

from benchmarks.side_by_side import THREADS, compare, make_trainer, use_threads  # first: it sets the threads

import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
import torch
import transformers

from tfhf.losses.ctc import CTCLoss
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.optimizers import freeze
from tfhf.preflight import PreflightError, compile_for_tpu

SAMPLES = 246_000


def main_tpu():
    """Compiles the step of the recipe `finetune`, 32 clips a core, without and with recomputation."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    specs = [tf.TensorSpec((32, SAMPLES), tf.int16), tf.TensorSpec((32,), tf.int32),
             tf.TensorSpec((32, 256), tf.int32), tf.TensorSpec((32,))]
    for recompute in (False, True):
        model = Wav2Vec2ForCTC(Wav2Vec2Config.of_size("base-960h", recompute_activations=recompute))
        freeze(model, ("/feature_extractor/",))
        trainer = make_trainer(model, CTCLoss(model.config), clip_norm=1.0)

        @tf.function(jit_compile=True)
        def step(values, lengths, labels, weights):
            return trainer.train_step(({"input_values": values, "input_lengths": lengths}, labels, weights))["loss"]

        try:
            print(f"recompute_activations={recompute}: {compile_for_tpu(step, specs)}", flush=True)
        except PreflightError as error:
            print(f"recompute_activations={recompute}: {error}", flush=True)


def main():
    """Runs all comparisons."""
    use_threads()
    transformers.logging.set_verbosity_error()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}, {THREADS} threads")
    # torch draws its masks in NumPy, and skips what layerdrop drops.
    off = dict(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
               final_dropout=0.0, layerdrop=0.0, apply_spec_augment=False)
    model = Wav2Vec2ForCTC(Wav2Vec2Config.of_size("base-960h", **off))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.Wav2Vec2ForCTC.from_pretrained(folder)
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(2, SAMPLES)).astype("float32")
    labels = rng.integers(5, 32, (2, 128)).astype("int32")

    one, theirs_one = tf.constant(clips[:1]), torch.tensor(clips[:1])
    theirs.eval()

    def torch_forward():
        with torch.no_grad():
            return theirs(theirs_one).logits.numpy()

    for jit_compile in (False, True):
        forward = tf.function(lambda x: model({"input_values": x}, training=False), jit_compile=jit_compile)
        compare(f"forward 15.375 s, {'XLA' if jit_compile else 'graph'}", lambda: forward(one).numpy(), torch_forward)
        print(f"  logits differ by at most {np.abs(forward(one).numpy() - torch_forward()).max():.1e}")

    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-6)

    def torch_step():
        optimizer.zero_grad()
        theirs(torch.tensor(clips), labels=torch.tensor(labels).long()).loss.backward()
        optimizer.step()

    for jit_compile in (False, True):
        step = tf.function(make_trainer(model, CTCLoss(model.config)).train_step, jit_compile=jit_compile)
        data = tf.nest.map_structure(tf.constant, ({"input_values": clips}, labels, np.ones(2, "float32")))
        compare(f"train step, batch 2, {'XLA' if jit_compile else 'graph'}", lambda: float(step(data)["loss"]),
                torch_step)


if __name__ == "__main__":
    main_tpu() if "--tpu" in sys.argv else main()
