"""The CTC loss and its gradient against torch and against tf.nn.ctc_loss.

    python -m benchmarks.ctc          times on the CPU
    python -m benchmarks.ctc --tpu    memory and bytes on a TPU v3 core, by its compiler (extra preflight)

Claims, for batch 8, 768 frames, 32 symbols, 256 labels: at least 45 times as fast as `tf.nn.ctc_loss`, no slower than
torch with 2 threads. Torch's time follows the clips' own lengths, ours the static shape: on short clips in a large
bucket torch wins on a CPU, and both figures are printed.
"""

from benchmarks.side_by_side import THREADS, compare, use_threads  # first: it sets the threads

import sys

import numpy as np
import tensorflow as tf
import torch

from tfhf.losses.ctc import ctc_loss
from tfhf.preflight import compile_for_tpu

CASES = [(8, 768, 32, 256), (8, 1500, 32, 400), (8, 768, 1000, 256)]


def reference(logits, labels, logit_lengths, label_lengths):
    """TensorFlow's own loss with our arguments."""
    return tf.nn.ctc_loss(labels, logits, label_lengths, logit_lengths, logits_time_major=False, blank_index=0)


def value_and_gradient(loss, jit_compile=True):
    """tf.function (logits, labels, logit_lengths, label_lengths) -> losses [batch], gradient of their sum."""
    @tf.function(jit_compile=jit_compile)
    def both(logits, *rest):
        losses = loss(logits, *rest)
        return losses, tf.gradients(losses, logits)[0]

    return both


def torch_value_and_gradient(logits, labels, logit_lengths, label_lengths):
    """The same by torch."""
    logits = torch.tensor(logits, requires_grad=True)
    losses = torch.nn.functional.ctc_loss(
        torch.log_softmax(logits, -1).transpose(0, 1), torch.tensor(labels), torch.tensor(logit_lengths),
        torch.tensor(label_lengths), reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), logits.grad.numpy()


def main_tpu():
    """Compiles all cases for one core."""
    for batch, frames, symbols, width in CASES:
        specs = [tf.TensorSpec((batch, frames, symbols)), tf.TensorSpec((batch, width), tf.int32),
                 tf.TensorSpec((batch,), tf.int32), tf.TensorSpec((batch,), tf.int32)]
        print(f"batch {batch}, {frames} frames, {symbols} symbols, labels {width}")
        for name, loss in (("ours", ctc_loss), ("tf.nn.ctc_loss", reference)):
            print(f"  {name}: {compile_for_tpu(value_and_gradient(loss), specs)}", flush=True)


def main():
    """Runs all cases: full length and, as in a bucket, clips and labels of any length."""
    use_threads()
    print(f"TensorFlow {tf.__version__}, torch {torch.__version__}, {THREADS} threads; loss and gradient, float32")
    for batch, frames, symbols, width in CASES:
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(batch, frames, symbols)).astype("float32")
        labels = rng.integers(1, symbols, (batch, width)).astype("int32")
        full = np.full(batch, frames, "int32"), np.full(batch, width, "int32")
        mixed = (rng.integers(frames // 2, frames + 1, batch).astype("int32"),
                 rng.integers(1, width // 2, batch).astype("int32"))
        print(f"batch {batch}, {frames} frames, {symbols} symbols, labels {width}")
        for kind, lengths in (("full length", full), ("mixed lengths", mixed)):
            case = [tf.constant(x) for x in (logits, labels, *lengths)]
            for jit_compile in (True, False):
                ours = value_and_gradient(ctc_loss, jit_compile)
                compare(f"  {kind}, {'XLA' if jit_compile else 'graph'}", lambda: ours(*case)[1].numpy(),
                        lambda: torch_value_and_gradient(logits, labels, *lengths), rounds=15)
        case = [tf.constant(x) for x in (logits, labels, *full)]
        ours, theirs = value_and_gradient(ctc_loss), value_and_gradient(reference)
        ratio = compare("  full length, XLA", lambda: ours(*case)[1].numpy(), lambda: theirs(*case)[1].numpy(), 3,
                        peer="tf.nn.ctc_loss")
        print(f"  {1 / ratio:.0f} times as fast as tf.nn.ctc_loss")


if __name__ == "__main__":
    main_tpu() if "--tpu" in sys.argv else main()
