"""A convolution with batch normalisation behind it (Ioffe and Szegedy 2015), as convolutional networks are made of.

Under a strategy the statistics are those of the whole batch, whatever replica an example falls to: any number of
replicas trains as one device does. On Keras' JAX backend they are that anyway, since the batch is one array there.
"""

import keras
from keras import ops

from tfhf.layers import convolution
from tfhf.layers.sync_batch_norm import SyncBatchNormalization


def conv(filters, size, name, policy, strides=1, padding="valid", depthwise=False):
    """A convolution [batch, height, width, channels] without a bias, made for `conv_norm`.

    Args:
        filters: of the output; None with `depthwise`, whose channels stay apart.
        padding: "same" as TensorFlow pads, the odd row behind; or "valid", behind `padded`.
    """
    options = dict(strides=strides, padding=padding, use_bias=False, name=name, dtype=policy)
    # He et al. 2015, "Delving Deep into Rectifiers", section 2.2, by what goes out, as torchvision has it.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    if depthwise:
        # By Keras' count a depthwise kernel's fan out is that of a full one; each output has size * size weights.
        initializer = keras.initializers.RandomNormal(stddev=(2.0 / size**2) ** 0.5)
        return keras.layers.DepthwiseConv2D(size, depthwise_initializer=initializer, **options)
    return convolution.Conv2D(filters, size, kernel_initializer=initializer, **options)


def batch_norm(name, policy, epsilon=1e-5, momentum=0.9):
    """Batch normalisation over all replicas. `momentum` is Keras', one minus torch's.

    (torch keeps the unbiased variance as its running one, n / (n - 1) times this, of n = batch * height * width.)
    """
    return SyncBatchNormalization(epsilon=epsilon, momentum=momentum, name=name, dtype=policy,
                                  synchronized=keras.backend.backend() == "tensorflow")


def padded(x, edge):
    """[batch, height, width, channels] with `edge` rows and columns of zeros on every side, as torch pads."""
    return ops.pad(x, [[0, 0], [edge, edge], [edge, edge], [0, 0]]) if edge else x


def conv_norm(conv, norm, x, training=False):
    """norm(conv(x)); x [batch, height, width, channels].

    Where the statistics are fixed (no training, or the norm is frozen) the norm is a factor and a shift for each
    channel: the factor goes into the kernel, which is small, and the pixels are gone over once less.
    """
    if training and norm.trainable:
        return norm(conv(x), training=True)
    scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)   # float32: norms are not autocast
    mean = norm.moving_mean if conv.bias is None else norm.moving_mean - ops.cast(conv.bias, "float32")
    shift = ops.cast(norm.beta - mean * scale, x.dtype)
    depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
    kernel = ops.cast(conv.kernel, "float32") * (scale[:, None] if depthwise else scale)
    convolve = ops.depthwise_conv if depthwise else convolution.conv
    return convolve(x, ops.cast(kernel, x.dtype), strides=conv.strides, padding=conv.padding) + shift
