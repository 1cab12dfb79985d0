"""UNet (Ronneberger et al. 2015, figure 1): a path down that doubles the channels, one up that sees each level again.

Read from leaf to whole: two convolutions, the up-convolution, one level up, the network, its heads. All is NHWC. Image
values are float in [0, 1], or uint8, which the model divides by 255: a quarter of the bytes on the way to a TPU. The
first convolution sees them minus 0.5.
"""

import keras
from keras import ops

from tfhf.layers.conv_norm import batch_norm, conv_norm
from tfhf.layers.convolution import Conv2D
from tfhf.layers.doubled import doubled
from tfhf.models.pretrained import PreTrainedModel
from tfhf.models.unet.config import UNetConfig


class UNetConvolutions(keras.layers.Layer):
    """Twice a 3x3 convolution, batch normalisation where the config has it, and ReLU."""

    def __init__(self, channels, config, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels = channels
        self.conv1, self.conv2 = (
            # Section 3 of the paper: deviation sqrt(2 / fan_in), which is He's initialisation.
            Conv2D(channels, 3, padding="same", use_bias=config.use_bias, name=name, dtype=policy,
                   kernel_initializer=keras.initializers.HeNormal())
            for name in ("conv1", "conv2"))
        self.norm1 = self.norm2 = None
        if config.use_batch_norm:
            self.norm1, self.norm2 = (batch_norm(name, policy) for name in ("norm1", "norm2"))

    def build(self, input_shape):
        self.conv1.build(input_shape)
        between = (*input_shape[:-1], self.channels)
        self.conv2.build(between)
        if self.norm1 is not None:
            self.norm1.build(between)
            self.norm2.build(between)
        self.built = True

    def call(self, x, training=False):
        """[batch, height, width, any] -> [batch, height, width, channels]"""
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = ops.relu(conv(x) if norm is None else conv_norm(conv, norm, x, training=training))
        return x


class UNetUpConvolution(keras.layers.Layer):
    """The transposed 2x2 convolution of stride 2: each pixel becomes four, each a linear function of it.

    As a product with a [channels in, 4 * channels out] matrix, since no two pixels overlap: four times less work than
    a convolution over the picture spread out with zeros, which is what XLA makes of the general operation.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape):
        # Keras' (and, transposed, torch's) layout of a transposed convolution's kernel. A result is the sum of
        # input_shape[-1] products, a fourth of what Keras takes for the fan.
        self.kernel = self.add_weight((2, 2, self.channels, input_shape[-1]), name="kernel",
                                      initializer=keras.initializers.VarianceScaling(4.0, "fan_out"))
        self.bias = self.add_weight((self.channels,), name="bias", initializer="zeros")
        self.built = True

    def call(self, x):
        """[batch, height, width, channels in] -> [batch, 2 * height, 2 * width, channels]"""
        _, height, width, inputs = ops.shape(x)
        kernel = ops.reshape(self.kernel, (4 * self.channels, inputs))
        x = ops.matmul(x, ops.transpose(kernel))
        x = ops.reshape(x, (-1, height, width, 2, 2, self.channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))   # batch, row, its half, column, its half, channel
        return ops.reshape(x, (-1, 2 * height, 2 * width, self.channels)) + self.bias


class UNetUpBlock(keras.layers.Layer):
    """Doubles the size, halves the channels, sets the path down's features of that size before it, and convolves."""

    def __init__(self, channels, config, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels, self.interpolation = channels, config.upsampling
        if config.upsampling == "transposed":
            self.upsample = UNetUpConvolution(channels, name="upsample", dtype=policy)
        else:
            self.upsample = Conv2D(channels, 2, padding="same", name="upsample", dtype=policy)
        self.block = UNetConvolutions(channels, config, name="block", dtype=policy)

    def build(self, input_shape):
        self.upsample.build(input_shape)
        self.block.build((*input_shape[:-1], 2 * self.channels))
        self.built = True

    def call(self, x, skipped, training=False):
        """[batch, height, width, any], [batch, 2 * height, 2 * width, channels] -> the latter's shape"""
        if self.interpolation != "transposed":
            x = doubled(x, self.interpolation)
        x = ops.concatenate([skipped, self.upsample(x)], axis=-1)
        return self.block(x, training=training)


class UNetModel(keras.layers.Layer):
    """The network without a head."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        sizes = config.hidden_sizes
        self.down_blocks = [UNetConvolutions(size, config, name=f"down_blocks_{i}", dtype=policy)
                            for i, size in enumerate(sizes)]
        self.up_blocks = [UNetUpBlock(size, config, name=f"up_blocks_{i}", dtype=policy)
                          for i, size in enumerate(sizes[-2::-1])]

    def build(self, input_shape=None):
        sizes = (self.config.num_channels, *self.config.hidden_sizes)
        for block, size in zip(self.down_blocks, sizes):
            block.build((None, None, None, size))
        for block, size in zip(self.up_blocks, sizes[:1:-1]):
            block.build((None, None, None, size))
        self.built = True

    def call(self, pixel_values, training=False):
        """[batch, height, width, num_channels] of any height and width -> [batch, height, width, hidden_sizes[0]]"""
        height, width = ops.shape(pixel_values)[1:3]
        x, (top, left) = fill_up(pixel_values, self.config.multiple, self.config.padding)
        skipped = []
        for block in self.down_blocks[:-1]:
            skipped.append(block(x, training=training))
            x = ops.max_pool(skipped[-1], 2, strides=2)
        x = self.down_blocks[-1](x, training=training)
        for block, features in zip(self.up_blocks, reversed(skipped)):
            x = block(x, features, training=training)
        return x[:, top:top + height, left:left + width]


class _UNetWithHead(PreTrainedModel):
    """A UNet and the 1x1 convolution behind it, in float32."""

    config_class = UNetConfig
    base_model_prefix = "unet"
    head_prefixes = ("head.",)
    outputs_of_head = None

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.unet = UNetModel(config, name="unet", dtype=self.dtype_policy)
        self.head = Conv2D(self.outputs_of_head or config.num_labels, 1, name="head", dtype="float32")
        self.build()

    def build(self, input_shape=None):
        self.unet.build()
        self.head.build((None, None, None, self.config.hidden_sizes[0]))
        self.built = True

    def logits(self, inputs, training):
        """{"pixel_values": [batch, height, width, num_channels]} -> float32 [batch, height, width, outputs]"""
        x = ops.convert_to_tensor(inputs["pixel_values"])
        if len(x.shape) != 4 or x.shape[-1] != self.config.num_channels:
            raise ValueError(f"{self.name}: pixel_values has shape {tuple(x.shape)}; expected [batch, height, width, "
                             f"{self.config.num_channels}].")
        # Centred: the variance that batch normalisation finds as mean(x^2) - mean(x)^2 loses no digits to the mean.
        x = ops.cast(x, "float32") * (1.0 / 255.0 if "int" in str(x.dtype) else 1.0) - 0.5
        return self.head(self.unet(ops.cast(x, self.compute_dtype), training=training))


@keras.saving.register_keras_serializable("tfhf")
class UNetForSemanticSegmentation(_UNetWithHead):
    """A UNet that gives every pixel the logits of its classes.

    Inputs: {"pixel_values": [batch, height, width, num_channels], float in [0, 1] or uint8}, of any size.
    Output: float32 [batch, height, width, num_labels].
    """

    def call(self, inputs, training=False):
        return self.logits(inputs, training)


@keras.saving.register_keras_serializable("tfhf")
class UNetForDepthEstimation(_UNetWithHead):
    """A UNet that gives every pixel its depth.

    Inputs: {"pixel_values": [batch, height, width, num_channels], float in [0, 1] or uint8}, of any size.
    Output: float32 [batch, height, width, 1], in metres, between config.min_depth and config.max_depth by a sigmoid.
    """

    outputs_of_head = 1

    def call(self, inputs, training=False):
        o = self.config
        return o.min_depth + (o.max_depth - o.min_depth) * ops.sigmoid(self.logits(inputs, training))


def fill_up(x, multiple, mode):
    """Fills height and width up to multiples, by as much on either side as can be.

    Args:
        x: [batch, height, width, channels]; height and width may be unknown until the graph runs.
        multiple: what they shall be multiples of.
        mode: "reflect" (the border itself is not repeated; again and again, if the picture is small) or "edge".

    Returns:
        The larger pictures, and (rows added above, columns added on the left).
    """
    begins = []
    for axis in (1, 2):
        size = ops.shape(x)[axis]
        missing = -size % multiple
        begins.append(missing // 2)
        if isinstance(missing, int) and not missing:
            continue
        places = ops.arange(size + missing) - missing // 2
        if mode == "reflect":   # there and back again: 0 ... last ... 1, 0 ...
            last = size - 1
            places = last - ops.abs(places % ops.maximum(2 * last, 1) - last)
        x = ops.take(x, ops.clip(places, 0, size - 1), axis=axis)
    return x, tuple(begins)
