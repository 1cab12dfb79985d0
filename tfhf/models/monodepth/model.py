"""The networks of Godard et al. 2017: an encoder, VGG-like or a ResNet, and a decoder with skips that gives a pair of
disparities at four scales. Read from leaf to whole: the convolution, the encoders, the decoder, the model.
"""

import keras
from keras import ops

from tfhf.layers.convolution import Conv2D
from tfhf.layers.doubled import doubled
from tfhf.models.monodepth.config import NUM_SCALES, MonodepthConfig
from tfhf.models.pretrained import PreTrainedModel


class PaddedConv2D(Conv2D):
    """A convolution behind (kernel_size - 1) / 2 zeros on every side, then ELU unless another activation is given.

    With stride 2 Keras' "same" has one row of zeros less above than below, where the published networks, as torch, have
    the same number."""

    def __init__(self, filters, kernel_size, strides=1, activation="elu", **kwargs):
        super().__init__(filters, kernel_size, strides=strides, padding="same" if strides == 1 else "valid",
                         activation=activation, **kwargs)

    def call(self, x):
        zeros = (self.kernel_size[0] - 1) // 2
        if self.strides[0] > 1 and zeros:
            x = ops.pad(x, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))
        return super().call(x)


class VggEncoder(keras.layers.Layer):
    """Levels of two convolutions, the second of stride 2."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.conv, self.down = [], []
        for i, (width, size) in enumerate(zip(config.encoder_hidden_sizes, config.encoder_kernel_sizes)):
            self.conv.append(PaddedConv2D(width, size, name=f"conv_{i}", dtype=policy))
            self.down.append(PaddedConv2D(width, size, 2, name=f"down_{i}", dtype=policy))

    @property
    def widths(self):
        """Channels of each feature that `call` gives."""
        return self.config.encoder_hidden_sizes

    def build(self, input_shape=None):
        width = 3
        for conv, down in zip(self.conv, self.down):
            conv.build((None, None, None, width))
            width = conv.filters
            down.build((None, None, None, width))
        self.built = True

    def call(self, x):
        """[batch, height, width, 3] -> features of 1/2, 1/4 … of the size."""
        features = []
        for conv, down in zip(self.conv, self.down):
            x = down(conv(x))
            features.append(x)
        return features


class Bottleneck(keras.layers.Layer):
    """1 x 1, 3 x 3 and 1 x 1 convolution, added to a projection of the input; no normalisation."""

    def __init__(self, width, strides=1, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.conv1 = PaddedConv2D(width, 1, name="conv1", dtype=policy)
        self.conv2 = PaddedConv2D(width, 3, strides, name="conv2", dtype=policy)
        self.conv3 = PaddedConv2D(4 * width, 1, activation=None, name="conv3", dtype=policy)
        self.shortcut = PaddedConv2D(4 * width, 1, strides, activation=None, name="shortcut", dtype=policy)

    def build(self, input_shape):
        self.conv1.build(input_shape)
        for conv in (self.conv2, self.conv3):
            conv.build((None, None, None, self.conv1.filters))
        self.shortcut.build(input_shape)
        self.built = True

    def call(self, x):
        return ops.elu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


class ResNetEncoder(keras.layers.Layer):
    """A convolution of stride 2, a maximum of stride 2, then stages of bottlenecks whose last one has stride 2."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        stem, *widths = config.encoder_hidden_sizes
        self.conv1 = PaddedConv2D(stem, 7, 2, name="conv1", dtype=policy)
        shapes = [(width, 2 if i == depth - 1 else 1) for width, depth in zip(widths, config.encoder_depths)
                  for i in range(depth)]
        self.blocks = [Bottleneck(width, strides, name=f"blocks_{i}", dtype=policy)
                       for i, (width, strides) in enumerate(shapes)]

    @property
    def widths(self):
        """Channels of each feature that `call` gives."""
        stem, *widths = self.config.encoder_hidden_sizes
        return (stem, stem, *(4 * width for width in widths))

    def build(self, input_shape=None):
        self.conv1.build((None, None, None, 3))
        width = self.conv1.filters
        for block in self.blocks:
            block.build((None, None, None, width))
            width = block.conv3.filters
        self.built = True

    def call(self, x):
        """[batch, height, width, 3] -> features of 1/2, 1/4 … of the size."""
        x = self.conv1(x)
        # Zeros around, as in the published code: where ELU gives less than that, the border's maximum is zero.
        pooled = ops.max_pool(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        features, x = [x, pooled], pooled
        for block in self.blocks:
            x = block(x)
            if block.conv2.strides[0] > 1:   # the last of a stage
                features.append(x)
        return features


class MonodepthDecoder(keras.layers.Layer):
    """From the coarsest feature to the size of the image: each level doubles the size, sees the encoder's feature of
    that size and the disparities of the level before, and the last four give disparities."""

    def __init__(self, config, encoder_widths, **kwargs):
        super().__init__(**kwargs)
        self.config, self.encoder_widths, policy = config, encoder_widths, self.dtype_policy
        widths = config.decoder_hidden_sizes
        self.upconv = [PaddedConv2D(width, 3, name=f"upconv_{i}", dtype=policy) for i, width in enumerate(widths)]
        self.iconv = [PaddedConv2D(width, 3, name=f"iconv_{i}", dtype=policy) for i, width in enumerate(widths)]
        # bfloat16 has 8 bits: a disparity of 100 pixels would be told in steps of half a pixel.
        self.disp = [PaddedConv2D(2, 3, activation="sigmoid", name=f"disp_{i}", dtype="float32")
                     for i in range(NUM_SCALES)]

    def build(self, input_shape=None):
        width = self.encoder_widths[-1]
        for i in reversed(range(len(self.upconv))):
            self.upconv[i].build((None, None, None, width))
            width = self.upconv[i].filters
            skip = self.encoder_widths[i - 1] if i else 0
            self.iconv[i].build((None, None, None, width + skip + 2 * (i < NUM_SCALES - 1)))
            if i < NUM_SCALES:
                self.disp[i].build((None, None, None, width))
        self.built = True

    def call(self, features):
        """The encoder's features, fine to coarse -> float32 disparities [batch, height / 2^i, width / 2^i, 2]."""
        disparities, x = [None] * NUM_SCALES, features[-1]
        for i in reversed(range(len(self.upconv))):
            parts = [self.upconv[i](doubled(x))]
            if i:
                parts.append(features[i - 1])
            if i < NUM_SCALES - 1:
                parts.append(ops.cast(doubled(disparities[i + 1]), self.compute_dtype))
            x = self.iconv[i](ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])
            if i < NUM_SCALES:
                disparities[i] = self.config.max_disparity * self.disp[i](x)
        return tuple(disparities)


def post_processed(disparity, mirrored):
    """Takes off the disocclusion ramps at the left of the picture and of objects (paper, section 4.3).

    The disparity of the mirrored image has its ramps on the other side: the left 5 % of the width are taken from it,
    the right 5 % from the image's own, with 5 % of transition, and the mean of both between.

    Args:
        disparity: float [batch, height, width, channels] of images.
        mirrored: the same of the images mirrored, mirrored back.
    """
    across = ops.linspace(0.0, 1.0, disparity.shape[2])[:, None]
    left = 1.0 - ops.clip(20.0 * (across - 0.05), 0.0, 1.0)
    right = left[::-1]
    return right * disparity + left * mirrored + (1.0 - left - right) * 0.5 * (disparity + mirrored)


@keras.saving.register_keras_serializable("tfhf")
class MonodepthModel(PreTrainedModel):
    """Disparities of a left image and of the right one that would belong to it, from the left one alone.

    Inputs: {"pixel_values": [batch, height, width, 3]}, float in [0, 1] or uint8; height and width are multiples of
    `config.stride`. The answer is a tuple of four float32 tensors [batch, height / 2^i, width / 2^i, 2], i = 0 to 3:
    the left and the right disparity as parts of the width, between 0 and config.max_disparity. A pixel of the left
    image at x is seen in the right one at x - disparity * width.

    Args:
        config: a `MonodepthConfig`.

    Raises:
        ValueError: an image of another size.
    """

    config_class = MonodepthConfig

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        kind = ResNetEncoder if config.encoder == "resnet" else VggEncoder
        self.encoder = kind(config, name="encoder", dtype=self.dtype_policy)
        self.decoder = MonodepthDecoder(config, self.encoder.widths, name="decoder", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        self.encoder.build()
        self.decoder.build()
        self.built = True

    def call(self, inputs, training=False):
        image, stride = inputs["pixel_values"], self.config.stride
        height, width = image.shape[1:3]
        if not height or not width or height % stride or width % stride:
            raise ValueError(f"{self.name}: got images of {height} x {width}; expected multiples of {stride}, known "
                             "when the graph is made.")
        whole = "int" in keras.backend.standardize_dtype(image.dtype)
        x = ops.cast(image, "float32") / 255.0 if whole else image
        return self.decoder(self.encoder(ops.cast(x, self.compute_dtype)))

    def disparity(self, image, post_process=True):
        """The left disparity of `image` (see the class) as a part of the width: float32 [batch, height, width, 1].

        `post_process`: run the network on the mirrored image as well and join both by `post_processed`.
        """
        own = self({"pixel_values": image}, training=False)[0][..., :1]
        if not post_process:
            return own
        mirrored = self({"pixel_values": image[:, :, ::-1]}, training=False)[0][..., :1]
        return post_processed(own, mirrored[:, :, ::-1])

    def own_tensors(self, tensors, new_head):
        """See `PreTrainedModel`: there is one model, and no head."""
        return tensors
