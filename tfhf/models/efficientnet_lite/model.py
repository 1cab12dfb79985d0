"""EfficientNet-Lite (Tan and Le 2019; Lite: Google 2020): inverted residual blocks, ReLU6, TensorFlow's padding.

Attribute names are timm's, so that a variable's path is its name there. Read from leaf to whole: the block, the stage,
the body, the classifier.
"""

from pathlib import Path

import keras
from keras import ops

from tfhf.layers.conv_norm import batch_norm, conv, conv_norm
from tfhf.layers.mixup import mix
from tfhf.layers.pixel_values import normalized
from tfhf.models.efficientnet_lite import convert
from tfhf.models.efficientnet_lite.config import EfficientNetLiteConfig
from tfhf.models.pretrained import PreTrainedModel

STEM_WIDTH, HEAD_WIDTH = 32, 1280


def _norm(config, name, policy):
    return batch_norm(name, policy, config.batch_norm_eps, config.batch_norm_momentum)


class InvertedResidual(keras.layers.Layer):
    """Wide inside, narrow outside (Sandler et al. 2018, "MobileNetV2", section 3.3): 1 x 1 up, depthwise, 1 x 1 down;
    nothing goes up where the expansion is 1."""

    def __init__(self, config, stage, first, **kwargs):
        super().__init__(**kwargs)
        policy, stride = self.dtype_policy, stage.stride if first else 1
        self.channels = stage.channels if first else stage.width
        inner = self.channels * stage.expansion
        shapes = [(None, stage.kernel, stride), (stage.width, 1, 1)]
        names = ["conv_dw", "conv_pw"]
        if stage.expansion != 1:
            shapes, names = [(inner, 1, 1), *shapes], ["conv_pw", "conv_dw", "conv_pwl"]
        self.convs = [conv(filters, size, name, policy, strides, "same", filters is None)
                      for name, (filters, size, strides) in zip(names, shapes)]
        self.norms = [_norm(config, f"bn{number}", policy) for number in range(1, len(shapes) + 1)]
        self.residual = stride == 1 and self.channels == stage.width

    def build(self, input_shape=None):
        channels = self.channels
        for one, norm in zip(self.convs, self.norms):
            one.build((None, None, None, channels))
            channels = getattr(one, "filters", None) or channels
            norm.build((None, None, None, channels))
        self.built = True

    def call(self, x, training=False):
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, stage.width], rounded up"""
        begin = x
        for one, norm in zip(self.convs[:-1], self.norms):
            x = ops.relu6(conv_norm(one, norm, x, training))
        x = conv_norm(self.convs[-1], self.norms[-1], x, training)
        return x + begin if self.residual else x


class EfficientNetStage(keras.layers.Layer):
    """Blocks one behind the other."""

    def __init__(self, config, stage, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [InvertedResidual(config, stage, number == 0, name=str(number), dtype=self.dtype_policy)
                       for number in range(stage.depth)]

    def build(self, input_shape=None):
        for block in self.blocks:
            block.build()
        self.built = True

    def call(self, x, training=False):
        """As the blocks' `call`."""
        for block in self.blocks:
            x = block(x, training=training)
        return x


class EfficientNetLiteBody(keras.layers.Layer):
    """Pixels to features."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.conv_stem = conv(STEM_WIDTH, 3, "conv_stem", policy, 2, "same")
        self.bn1 = _norm(config, "bn1", policy)
        self.stages = [EfficientNetStage(config, stage, name=f"blocks_{number}", dtype=policy)
                       for number, stage in enumerate(config.stages)]
        self.conv_head = conv(HEAD_WIDTH, 1, "conv_head", policy, padding="same")
        self.bn2 = _norm(config, "bn2", policy)

    def build(self, input_shape=None):
        self.conv_stem.build((None, None, None, self.config.num_channels))
        self.bn1.build((None, None, None, STEM_WIDTH))
        for stage in self.stages:
            stage.build()
        self.conv_head.build((None, None, None, self.config.stages[-1].width))
        self.bn2.build((None, None, None, HEAD_WIDTH))
        self.built = True

    def call(self, inputs, training=False):
        """As `EfficientNetLiteForImageClassification.call` -> float [batch, 1280], the mean over height and width."""
        o = self.config
        x = normalized(inputs["pixel_values"], o.image_mean, o.image_std, self.compute_dtype)
        if training and "mixup" in inputs:
            x = mix(x, inputs["mixup"])
        x = ops.relu6(conv_norm(self.conv_stem, self.bn1, x, training))
        for stage in self.stages:
            x = stage(x, training=training)
        x = ops.relu6(conv_norm(self.conv_head, self.bn2, x, training))
        return ops.mean(x, axis=(1, 2))


@keras.saving.register_keras_serializable("tfhf")
class EfficientNetLiteForImageClassification(PreTrainedModel):
    """The body, dropout, one linear layer."""

    config_class, base_model_prefix, head_prefixes = EfficientNetLiteConfig, "efficientnet", ("classifier.",)

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.efficientnet = EfficientNetLiteBody(config, name="efficientnet", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(config.dropout_rate, dtype=self.dtype_policy)
        # torch's start, within 1 / sqrt(features). The paper's goes by the number of classes: about the same for 1,000
        # of them, but far too wide for a new head of two.
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.classifier = keras.layers.Dense(config.num_labels, name="classifier", dtype="float32",
                                             kernel_initializer=uniform)
        self.build()

    def build(self, input_shape=None):
        self.efficientnet.build()
        self.classifier.build((None, HEAD_WIDTH))
        self.built = True

    def call(self, inputs, training=False):
        """A dict -> logits float32 [batch, num_labels].

        Args:
            inputs: pixel_values [batch, height, width, num_channels], uint8 or normalised floats
                (tfhf.layers.pixel_values); in training perhaps mixup float [batch], the shares of tfhf.layers.mixup.
        """
        return self.classifier(self.dropout(self.efficientnet(inputs, training=training), training=training))

    @classmethod
    def read_folder(cls, folder):
        """(config, {our name: array}) of a folder or of a file of torch in it (convert.py)."""
        return convert.read_checkpoint(Path(folder))

    def reference_tensors(self):
        """{name in timm's files: tensor}"""
        prefix = self.base_model_prefix + "."
        return convert.swapped({name.removeprefix(prefix): value
                                for name, value in super().reference_tensors().items()})
