"""UNet, SRResNet and monodepth against the same networks in plain torch: the same weights and images, NHWC ours.

    python -m benchmarks.vision [NETWORK …]      wall time, 2 threads, graph and XLA; all three by default
    python -m benchmarks.vision cpu-seconds      seconds of a core, 1 thread, graph alone: for a machine with other work

float32, the published shapes: `unet`, 64 to 1,024 with batch normalisation as in the recipe, one picture of 128 x 160,
depth loss; `srgan`, SRResNet x4, four pieces of 24 x 24, squared error; `monodepth`, the VGG encoder, one pair of
128 x 256, the loss of all scales. A forward pass, and a train step with AdamW. Ours as a graph and compiled by XLA;
torch's convolutions are oneDNN's, in its own layout and in channels_last, and the quicker one counts. Claim: ratios of
at most 1.0.
"""

from benchmarks.side_by_side import THREADS, compare, make_trainer, timed, use_threads  # first: it sets the threads

import functools
import sys
import time

import numpy as np
import tensorflow as tf
import torch

from tests.models.monodepth import torch_monodepth
from tests.models.srgan import torch_srgan
from tests.models.unet.torch_unet import TorchUNet
from tfhf.losses.depth import DepthLoss
from tfhf.losses.monodepth import MonodepthLoss
from tfhf.losses.srgan import pixel_losses
from tfhf.models.monodepth.config import MonodepthConfig
from tfhf.models.monodepth.model import MonodepthModel
from tfhf.models.srgan.config import SRGANConfig
from tfhf.models.srgan.model import SRGANGenerator
from tfhf.models.unet.config import UNetConfig
from tfhf.models.unet.model import UNetForDepthEstimation


class Network(torch.nn.Module):
    """A network that is written as a function of its tensors.

    Args:
        function: (tensors, x, training) -> outputs.
        tensors: {name: array}; all but moving statistics are trained.
    """

    def __init__(self, function, tensors):
        super().__init__()
        self.function, self.tensors = function, {}
        for name, array in tensors.items():
            tensor = torch.tensor(array)
            if "running_" not in name:
                tensor = torch.nn.Parameter(tensor)
                self.register_parameter(name.replace(".", "_"), tensor)
            self.tensors[name] = tensor

    def forward(self, x):
        return self.function(self.tensors, x, self.training)


class TorchSteps:
    """A forward pass and a train step of a network of torch, in the layout in which it is quicker.

    Args:
        model: its module.
        image: float32 [batch, height, width, channels].
        loss: outputs -> scalar.
    """

    def __init__(self, model, image, loss):
        self.model, self.loss, self.image = model, loss, nchw(image)
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

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

    def forward(self):
        """The (finest) output as NumPy, NHWC, without gradients, by the moving statistics."""
        self.model.eval()
        with torch.no_grad():
            return first(self.model(self.image)).permute(0, 2, 3, 1).numpy()

    def step(self):
        """One update by the loss that ours has."""
        self.model.train()
        self.optimizer.zero_grad()
        self.loss(self.model(self.image)).backward()
        self.optimizer.step()


def nchw(array):
    """float32 [batch, height, width, channels] -> torch's [batch, channels, height, width]."""
    return torch.tensor(array).permute(0, 3, 1, 2).contiguous()


def first(outputs):
    """The only output, or the first of several."""
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def unet(rng):
    """(our model, our loss, image, targets, torch's module, its loss); so for the others."""
    model, config = UNetForDepthEstimation(UNetConfig.of_size("unet-bn")), UNetConfig.of_size("unet-bn")
    image, truth = rng.uniform(size=(1, 128, 160, 3)), rng.uniform(1.0, 9.0, (1, 128, 160, 1))
    image, truth = image.astype("float32"), truth.astype("float32")

    class Depth(TorchUNet):   # with the head of ours, and its centred pixels
        def forward(self, x):
            return config.min_depth + (config.max_depth - config.min_depth) * torch.sigmoid(super().forward(x - 0.5))

    def loss(depth):
        difference = torch.log(depth) - torch.log(nchw(truth))
        silog = difference.square().mean((1, 2, 3)) - 0.5 * difference.mean((1, 2, 3)).square()
        return ((depth - nchw(truth)).abs().mean((1, 2, 3)) + silog).mean()

    theirs = Depth(config)
    state = {name: torch.tensor(value) for name, value in model.reference_tensors().items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    return model, DepthLoss(l1=1.0, silog=1.0, gradient=0.0), image, truth, theirs, loss


def srgan(rng):
    model = SRGANGenerator(SRGANConfig())
    image, target = (rng.uniform(size=(4, side, side, 3)).astype("float32") for side in (24, 96))
    theirs = Network(lambda tensors, x, training: torch_srgan.generator(model.config, tensors, x, training),
                     model.reference_tensors())
    return model, pixel_losses, image, target, theirs, lambda found: (found - nchw(target)).square().mean()


def monodepth(rng):
    model = MonodepthModel(MonodepthConfig())
    left, right = (rng.uniform(size=(1, 128, 256, 3)).astype("float32") for _ in range(2))
    theirs = Network(lambda tensors, x, training: torch_monodepth.disparities(model.config, tensors, x),
                     model.reference_tensors())
    views = [nchw(left), nchw(right)]
    return (model, MonodepthLoss(), left, {"left": left, "right": right}, theirs,
            lambda pairs: torch_monodepth.losses(views, pairs).mean())


NETWORKS = {"unet": unet, "srgan": srgan, "monodepth": monodepth}


def compare_network(name, clock, compilers):
    """All comparisons of one network."""
    model, loss, image, targets, module, torch_loss = NETWORKS[name](np.random.default_rng(0))
    theirs = TorchSteps(module, image, torch_loss)
    theirs.choose_layout(clock)
    pixels = tf.constant(image)
    run = functools.partial(compare, clock=clock)
    for jit_compile in compilers:
        forward = tf.function(lambda x: first(model({"pixel_values": x}, training=False)), jit_compile=jit_compile)
        run(f"{name}, forward, {'XLA' if jit_compile else 'graph'}", lambda: forward(pixels).numpy(), theirs.forward)
        print(f"  outputs differ by at most {np.abs(forward(pixels).numpy() - theirs.forward()).max():.1e}")
    data = ({"pixel_values": pixels}, tf.nest.map_structure(tf.constant, targets), tf.ones([len(image)]))
    for jit_compile in compilers:
        step = tf.function(make_trainer(model, loss).train_step, jit_compile=jit_compile)
        run(f"{name}, train step, {'XLA' if jit_compile else 'graph'}", lambda: float(step(data)["loss"]), theirs.step)


def main(names):
    """Runs the comparisons of the networks."""
    use_threads()
    clock, threads, compilers = time.perf_counter, THREADS, (False, True)
    if "cpu-seconds" in names:
        clock, threads, compilers = time.process_time, 1, (False,)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        torch.set_num_threads(1)
    print(f"TensorFlow {tf.__version__}, torch {torch.__version__}, {threads} threads")
    for name in [name for name in names if name in NETWORKS] or NETWORKS:
        compare_network(name, clock, compilers)


if __name__ == "__main__":
    main(sys.argv[1:])
