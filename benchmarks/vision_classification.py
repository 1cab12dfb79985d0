"""ResNet-50 against transformers' on torch: the same weights, the same images, 2 threads, in one run.

    python -m benchmarks.vision_classification                  wall time, 2 threads, graph and XLA
    python -m benchmarks.vision_classification cpu-seconds      seconds of a core, 1 thread, graph alone

A forward pass and a train step (cross-entropy, AdamW) on 4 images of 224 x 224, ours (NHWC) and theirs. Claims: both
ratios at most 1.0. On a machine with other work only the second form tells something: torch's threads wait for each
other there.
"""

from benchmarks.side_by_side import THREADS, compare, make_trainer, use_threads  # first: it sets the threads

import statistics
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tfhf.losses.cross_entropy import LabelCrossEntropy
from tfhf.models.resnet.config import ResNetConfig
from tfhf.models.resnet.model import ResNetForImageClassification

BATCH, SIDE = 4, 224


def _cpu_seconds(name, ours, theirs, rounds=3):
    """As `compare`, by the time of the processor."""
    def timed(function):
        begin = time.process_time()
        function()
        return time.process_time() - begin

    timed(ours), timed(theirs)
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name:<34} ours {mine:8.4g} s   torch {other:8.4g} s   ratio {ratio:.3g}", flush=True)


def main(cpu_seconds=False):
    """Runs all comparisons."""
    import torch
    import transformers

    use_threads()
    if cpu_seconds:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        torch.set_num_threads(1)
    measure, compilers = (_cpu_seconds, (False,)) if cpu_seconds else (compare, (False, True))
    transformers.logging.set_verbosity_error()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}, {1 if cpu_seconds else THREADS} threads, ResNet-50, {BATCH} x {SIDE} x {SIDE}")
    model = ResNetForImageClassification(ResNetConfig.of_size("resnet50"))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, names="transformers")
        theirs = transformers.ResNetForImageClassification.from_pretrained(folder)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype("float32")
    labels = rng.integers(0, 1000, BATCH).astype("int32")
    ours_in, theirs_in = tf.constant(pixels), torch.tensor(pixels.transpose(0, 3, 1, 2))

    def torch_forward():
        with torch.no_grad():
            return theirs(theirs_in).logits.numpy()

    theirs.eval()
    for jit_compile in compilers:
        forward = tf.function(lambda x: model({"pixel_values": x}, training=False), jit_compile=jit_compile)
        measure(f"forward, {'XLA' if jit_compile else 'graph'}", lambda: forward(ours_in).numpy(), torch_forward)
        print(f"  logits differ by at most {np.abs(forward(ours_in).numpy() - torch_forward()).max():.1e}")

    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-6)
    targets = torch.tensor(labels).long()

    def torch_step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(theirs_in).logits, targets).backward()
        optimizer.step()

    for jit_compile in compilers:
        step = tf.function(make_trainer(model, LabelCrossEntropy()).train_step, jit_compile=jit_compile)
        data = tf.nest.map_structure(tf.constant, ({"pixel_values": pixels}, labels, np.ones(BATCH, "float32")))
        measure(f"train step, {'XLA' if jit_compile else 'graph'}", lambda: float(step(data)["loss"]), torch_step)


if __name__ == "__main__":
    main("cpu-seconds" in sys.argv)
