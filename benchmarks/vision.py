"""UNet against the same network in plain torch: the same weights and images, 2 threads, in one run; NHWC ours.

    python -m benchmarks.vision                  wall time, 2 threads, graph and XLA
    python -m benchmarks.vision cpu-seconds      seconds of a core, 1 thread, graph alone: for a machine with other work

The paper's widths, 64 to 1,024, batch normalisation as in the recipe (31,037,633 parameters), float32, one picture
of 128 x 160: a forward pass, and a train step (depth loss, AdamW). Ours as a graph and compiled by XLA; torch's
convolutions are oneDNN's, in its own layout and in channels_last, and the quicker one counts. Claim: ratios of at most
1.0.
"""

from benchmarks.side_by_side import THREADS, compare, timed, use_threads  # first: it sets the threads

import sys
import time

import keras
import numpy as np
import tensorflow as tf
import torch

from tests.models.unet.torch_unet import TorchUNet
from tfhf import weights
from tfhf.losses.depth import DepthLoss
from tfhf.models.unet.config import UNetConfig
from tfhf.models.unet.model import UNetForDepthEstimation
from tfhf.optimizers import OptimizerConfig, make_optimizer
from tfhf.train_steps import Trainer

SIZE = (128, 160)
LOSS = DepthLoss(l1=1.0, silog=1.0, gradient=0.0)


def _trainer(model):
    trainer = Trainer(model, LOSS, seed=0, num_replicas=1, max_traces=1)
    trainer.compile(optimizer=make_optimizer(OptimizerConfig(learning_rate=1e-6), model, 1000))
    trainer.optimizer.build(model.trainable_variables)
    return trainer


class TorchSteps:
    """A forward pass and a train step of torch's UNet, in the layout in which it is quicker.

    Args:
        config: of the network.
        image, truth: float32 [batch, height, width, channels].
    """

    def __init__(self, config, image, truth):
        self.config, self.model = config, TorchUNet(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-6)
        self.image, self.truth = (torch.tensor(array).permute(0, 3, 1, 2).contiguous() for array in (image, truth))

    def choose_layout(self, clock):
        """channels_last if it takes less time, else torch's own."""
        seconds = {}
        for layout in (torch.channels_last, torch.contiguous_format):
            self.model.to(memory_format=layout)
            self.image = self.image.contiguous(memory_format=layout)
            self.forward()
            seconds[layout] = min(timed(self.forward, clock) for _ in range(2))
        best = min(seconds, key=seconds.get)
        self.model.to(memory_format=best)
        self.image = self.image.contiguous(memory_format=best)
        print(f"torch: {', '.join(f'{layout} {value:.3f} s' for layout, value in seconds.items())}")

    def depth(self):
        """float [batch, 1, height, width], by the head of ours."""
        o = self.config
        return o.min_depth + (o.max_depth - o.min_depth) * torch.sigmoid(self.model(self.image))

    def forward(self):
        """Depth as NumPy, NHWC, without gradients, by the moving statistics."""
        self.model.eval()
        with torch.no_grad():
            return self.depth().permute(0, 2, 3, 1).numpy()

    def step(self):
        """One update by the loss that ours has: L1 and the scale-invariant one."""
        self.model.train()
        self.optimizer.zero_grad()
        depth = self.depth()
        difference = torch.log(depth) - torch.log(self.truth)
        mean = difference.mean((1, 2, 3))
        silog = difference.square().mean((1, 2, 3)) - 0.5 * mean.square()
        ((depth - self.truth).abs().mean((1, 2, 3)) + silog).mean().backward()
        self.optimizer.step()


def main(cpu_seconds=False):
    """Runs all comparisons."""
    use_threads()
    clock, threads, compilers = time.perf_counter, THREADS, (False, True)
    if cpu_seconds:
        clock, threads, compilers = time.process_time, 1, (False,)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        torch.set_num_threads(1)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, torch {torch.__version__}, {threads} threads")
    rng, config = np.random.default_rng(0), UNetConfig.of_size("unet-bn")
    image = rng.uniform(size=(1, *SIZE, 3)).astype("float32")
    truth = rng.uniform(1.0, 9.0, (1, *SIZE, 1)).astype("float32")
    theirs = TorchSteps(config, image - 0.5, truth)
    model = UNetForDepthEstimation(config)
    state = {name: value.numpy() for name, value in theirs.model.state_dict().items() if "num_batches" not in name}
    weights.assign_reference_weights(model, state, where="torch")
    theirs.choose_layout(clock)
    pixels = tf.constant(image)
    for jit_compile in compilers:
        forward = tf.function(lambda x: model({"pixel_values": x}, training=False), jit_compile=jit_compile)
        compare(f"forward, {'XLA' if jit_compile else 'graph'}", lambda: forward(pixels).numpy(), theirs.forward,
                clock=clock)
        print(f"  depths differ by at most {np.abs(forward(pixels).numpy() - theirs.forward()).max():.1e} m")
    data = ({"pixel_values": pixels}, tf.constant(truth), tf.ones([1]))
    for jit_compile in compilers:
        step = tf.function(_trainer(model).train_step, jit_compile=jit_compile)
        compare(f"train step, {'XLA' if jit_compile else 'graph'}", lambda: float(step(data)["loss"]), theirs.step,
                clock=clock)


if __name__ == "__main__":
    main("cpu-seconds" in sys.argv)
