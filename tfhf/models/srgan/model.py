"""SRGAN (Ledig et al. 2017, figure 4): the generator, which alone is SRResNet, and the discriminator.

Read from leaf to whole: one residual block, one doubling, the generator; one strided block, the discriminator. Images
are NHWC. What goes into the generator is in [0, 1], what comes out, and what the discriminator sees, in [-1, 1]
(section 3.2).
"""

import keras
from keras import ops

from tfhf.layers.bicubic import bicubic_enlarged
from tfhf.layers.conv_norm import batch_norm, conv_norm
from tfhf.layers.convolution import Conv2D
from tfhf.layers.pixel_shuffle import PixelShuffle
from tfhf.layers.pixel_values import normalized
from tfhf.layers.prelu import PReLU
from tfhf.models.pretrained import ExportableModel, PreTrainedModel
from tfhf.models.srgan.config import SRGANConfig, SRGANDiscriminatorConfig


def _convolution(filters, size, name, policy, strides=1):
    return Conv2D(filters, size, strides, padding="same", name=name, dtype=policy)


def _prelu(config, name, policy):
    """Leaky for negative values with a learned slope, which begins at 0.25 (He et al. 2015, section 2.1)."""
    axes = [1, 2] if config.prelu_per_channel else [1, 2, 3]
    return PReLU(keras.initializers.Constant(0.25), shared_axes=axes, name=name, dtype=policy)


class ResidualBlock(keras.layers.Layer):
    """Convolution, norm, PReLU, convolution, norm, added to what came in."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.width, policy = config.hidden_size, self.dtype_policy
        self.conv1 = _convolution(self.width, 3, "conv1", policy)
        self.bn1 = batch_norm("bn1", policy)
        self.prelu = _prelu(config, "prelu", policy)
        self.conv2 = _convolution(self.width, 3, "conv2", policy)
        self.bn2 = batch_norm("bn2", policy)

    def build(self, input_shape=None):
        for layer in (self.conv1, self.bn1, self.prelu, self.conv2, self.bn2):
            layer.build((None, None, None, self.width))
        self.built = True

    def call(self, x, training=False):
        """[batch, height, width, hidden_size] -> the same shape."""
        y = self.prelu(conv_norm(self.conv1, self.bn1, x, training))
        return x + conv_norm(self.conv2, self.bn2, y, training)


class UpsampleBlock(keras.layers.Layer):
    """Convolution to four times the channels, pixel shuffle, PReLU: twice as high and wide."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.width, policy = config.hidden_size, self.dtype_policy
        self.conv = _convolution(4 * self.width, 3, "conv", policy)
        self.shuffle = PixelShuffle(2, name="shuffle", dtype=policy)
        self.prelu = _prelu(config, "prelu", policy)

    def build(self, input_shape=None):
        self.conv.build((None, None, None, self.width))
        self.shuffle.build((None, None, None, 4 * self.width))
        self.prelu.build((None, None, None, self.width))
        self.built = True

    def call(self, x):
        """[batch, height, width, hidden_size] -> [batch, 2 * height, 2 * width, hidden_size]."""
        return self.prelu(self.shuffle(self.conv(x)))


@keras.saving.register_keras_serializable("tfhf")
class SRGANGenerator(PreTrainedModel):
    """Low resolution to high: SRGAN's generator; trained on the squared error alone it is SRResNet."""

    config_class = SRGANConfig

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        self.head = _convolution(config.hidden_size, 9, "head", policy)
        self.head_prelu = _prelu(config, "head_prelu", policy)
        self.blocks = [ResidualBlock(config, name=f"blocks_{number}", dtype=policy)
                       for number in range(config.num_residual_blocks)]
        self.body = _convolution(config.hidden_size, 3, "body", policy)
        self.body_bn = batch_norm("body_bn", policy)
        self.upsample = [UpsampleBlock(config, name=f"upsample_{number}", dtype=policy)
                         for number in range(config.num_doublings)]
        # float32: the 8 bits of a bfloat16 cannot tell the 256 steps of a pixel apart.
        self.tail = _convolution(3, 9, "tail", "float32")
        if config.bicubic_skip:
            self.tail.kernel_initializer = keras.initializers.Zeros()
        self.build()

    def build(self, input_shape=None):
        width = self.config.hidden_size
        self.head.build((None, None, None, 3))
        for layer in (self.head_prelu, *self.blocks, self.body, self.body_bn, *self.upsample, self.tail):
            layer.build((None, None, None, width))
        self.built = True

    def call(self, inputs, training=False):
        """Super-resolution.

        Args:
            inputs: [batch, height, width, 3] of any size, uint8 or float in [0, 1], or a dict of it, "pixel_values".

        Returns:
            float32 [batch, upscale * height, upscale * width, 3], about [-1, 1], not clipped.
        """
        image = inputs["pixel_values"] if isinstance(inputs, dict) else inputs
        image = normalized(image, (0.0,) * 3, (1.0,) * 3, "float32")
        first = x = self.head_prelu(self.head(image))
        for block in self.blocks:
            x = block(x, training=training)
        x = first + conv_norm(self.body, self.body_bn, x, training)
        for block in self.upsample:
            x = block(x)
        x = self.tail(ops.cast(x, "float32"))
        if self.config.bicubic_skip:
            x = x + 2.0 * bicubic_enlarged(image, self.config.upscale) - 1.0
        return x

    def own_tensors(self, tensors: dict, new_head: bool) -> dict:
        """There is no head, and no prefix."""
        return tensors


class DiscriminatorBlock(keras.layers.Layer):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, width, filters, strides, **kwargs):
        super().__init__(**kwargs)
        self.width, self.filters = width, filters
        self.conv = _convolution(filters, 3, "conv", self.dtype_policy, strides)
        self.bn = batch_norm("bn", self.dtype_policy)

    def build(self, input_shape=None):
        self.conv.build((None, None, None, self.width))
        self.bn.build((None, None, None, self.filters))
        self.built = True

    def call(self, x, training=False):
        """[batch, height, width, width] -> [batch, height / strides, width / strides, filters]."""
        return ops.leaky_relu(conv_norm(self.conv, self.bn, x, training), 0.2)


@keras.saving.register_keras_serializable("tfhf")
class SRGANDiscriminator(ExportableModel):
    """Tells originals from what the generator makes of small ones.

    Args:
        config: an `SRGANDiscriminatorConfig`.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy, width = config, self.dtype_policy, config.hidden_size
        self.head = _convolution(width, 3, "head", policy)
        # (channels in, channels out, stride): 64 halved, 128, 128 halved ... 512 halved.
        steps = [(width, width, 2)]
        for wide in (2 * width, 4 * width, 8 * width):
            steps += [(wide // 2, wide, 1), (wide, wide, 2)]
        self.blocks = [DiscriminatorBlock(*step, name=f"blocks_{number}", dtype=policy)
                       for number, step in enumerate(steps)]
        self.dense = keras.layers.Dense(config.dense_size, name="dense", dtype=policy)
        self.logit = keras.layers.Dense(1, name="logit", dtype="float32")
        self.build()

    def build(self, input_shape=None):
        config = self.config
        self.head.build((None, None, None, 3))
        for block in self.blocks:
            block.build()
        self.dense.build((None, (config.image_size // 16) ** 2 * 8 * config.hidden_size))
        self.logit.build((None, config.dense_size))
        self.built = True

    def call(self, image, training=False):
        """float [batch, image_size, image_size, 3] in [-1, 1] -> logits float32 [batch, 1], high for an original."""
        size = self.config.image_size
        if tuple(image.shape[1:]) != (size, size, 3):
            raise ValueError(f"{self.name}: got images of shape {tuple(image.shape[1:])}; expected ({size}, {size}, 3) "
                             "by its image_size.")
        x = ops.leaky_relu(self.head(image), 0.2)
        for block in self.blocks:
            x = block(x, training=training)
        x = ops.reshape(x, (-1, self.dense.kernel.shape[0]))
        return self.logit(ops.leaky_relu(self.dense(x), 0.2))

    def get_config(self):
        return {"config": self.config.to_dict(), "name": self.name, "dtype": self.dtype_policy}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        return cls(SRGANDiscriminatorConfig.from_dict(config.pop("config")), **config)
