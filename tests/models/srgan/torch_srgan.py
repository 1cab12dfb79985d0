"""SRGAN's generator in plain torch (Ledig et al. 2017, figure 4): what ours is compared with.

Written from the paper; the tensors have the names of our folders.
"""

import numpy as np
from torch.nn import functional


def generator(config, values, x, training=False):
    """x [batch, 3, height, width] in [0, 1] -> [batch, 3, upscale * height, upscale * width] in [-1, 1].

    `values`: {name: tensor}. `training`: norms by the batch, whose moving statistics are kept as torch does.
    """

    def conv(x, name, order=None):
        weight, bias = values[name + ".weight"], values[name + ".bias"]
        if order is not None:
            weight, bias = weight[order], bias[order]
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def norm(x, name):
        parts = (values[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, training=training, eps=1e-5)

    def prelu(x, name):
        return functional.prelu(x, values[name + ".alpha"].reshape(-1))

    first = x = prelu(conv(x, "head"), "head_prelu")
    for number in range(config.num_residual_blocks):
        name = f"blocks.{number}."
        y = prelu(norm(conv(x, name + "conv1"), name + "bn1"), name + "prelu")
        x = x + norm(conv(y, name + "conv2"), name + "bn2")
    x = first + norm(conv(x, "body"), "body_bn")
    for number in range(config.num_doublings):
        width = config.hidden_size
        order = np.arange(4 * width).reshape(4, width).T.reshape(-1)   # torch's c * 4 + k is our k * width + c
        x = functional.pixel_shuffle(conv(x, f"upsample.{number}.conv", order), 2)
        x = prelu(x, f"upsample.{number}.prelu")
    return conv(x, "tail")
