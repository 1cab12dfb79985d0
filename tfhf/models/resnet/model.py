"""ResNet (He et al. 2015): a stem, stages of residual blocks, the mean over all places, one linear layer.

Attribute names are torchvision's and timm's, so that a variable's path is its name there. Read from leaf to whole: the
two kinds of block, the body, the models.
"""

from pathlib import Path

import keras
from keras import ops

from tfhf.layers.conv_norm import batch_norm, conv, conv_norm, padded
from tfhf.layers.mixup import mix
from tfhf.layers.pixel_values import normalized
from tfhf.models.pretrained import PreTrainedModel, copy_companions
from tfhf.models.resnet import convert
from tfhf.models.resnet.config import ResNetConfig


class ResNetBlock(keras.layers.Layer):
    """The residual block of figure 5: two convolutions of 3 x 3 ("basic"), or one between two of 1 x 1 ("bottleneck").

    The shortcut is a convolution of 1 x 1 where the shape changes (option B of section 3.3).
    """

    def __init__(self, config, channels, width, stride, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.width, policy = channels, width, self.dtype_policy
        inner = width // config.reduction
        if config.layer_type == "bottleneck":
            early = config.downsample_in_bottleneck
            shapes = [(inner, 1, stride if early else 1), (inner, 3, 1 if early else stride), (width, 1, 1)]
        else:
            shapes = [(width, 3, stride), (width, 3, 1)]
        self.convs = [conv(filters, size, f"conv{number}", policy, strides)
                      for number, (filters, size, strides) in enumerate(shapes, 1)]
        self.norms = [batch_norm(f"bn{number}", policy) for number in range(1, len(shapes) + 1)]
        self.shortcut = None
        if stride != 1 or channels != width:
            self.shortcut = (conv(width, 1, "downsample_0", policy, stride), batch_norm("downsample_1", policy))

    def build(self, input_shape=None):
        channels = self.channels
        for one, norm in zip(self.convs, self.norms):
            one.build((None, None, None, channels))
            channels = one.filters
            norm.build((None, None, None, channels))
        if self.shortcut:
            self.shortcut[0].build((None, None, None, self.channels))
            self.shortcut[1].build((None, None, None, self.width))
        self.built = True

    def call(self, x, training=False):
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, self.width]"""
        residual = conv_norm(*self.shortcut, x, training) if self.shortcut else x
        last = len(self.convs) - 1
        for number, (one, norm) in enumerate(zip(self.convs, self.norms)):
            x = conv_norm(one, norm, padded(x, one.kernel_size[0] // 2), training)
            x = ops.relu(x if number < last else x + residual)
        return x


class ResNetBody(keras.layers.Layer):
    """Pixels to features."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        size, stride = (3, 1) if config.small_stem else (7, 2)
        self.conv1 = conv(config.embedding_size, size, "conv1", policy, stride)
        self.bn1 = batch_norm("bn1", policy)
        self.stages, channels = [], config.embedding_size
        for number, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
            stride = 2 if number or config.downsample_in_first_stage else 1
            self.stages.append([
                ResNetBlock(config, channels if block == 0 else width, width, stride if block == 0 else 1,
                            name=f"layer{number + 1}_{block}", dtype=policy) for block in range(depth)])
            channels = width

    def build(self, input_shape=None):
        self.conv1.build((None, None, None, self.config.num_channels))
        self.bn1.build((None, None, None, self.config.embedding_size))
        for block in (block for stage in self.stages for block in stage):
            block.build()
        self.built = True

    def call(self, inputs, training=False):
        """A dict -> a dict.

        Args:
            inputs: pixel_values [batch, height, width, num_channels], uint8 or normalised floats
                (tfhf.layers.pixel_values); in training perhaps mixup float [batch], the shares of tfhf.layers.mixup.

        Returns:
            hidden_states: behind the stem and behind each stage, [batch, height / 4, width / 4, embedding_size] ...
            [batch, height / 32, width / 32, hidden_sizes[-1]], rounded up; last_hidden_state: the last of them;
            pooler_output float [batch, hidden_sizes[-1]]: its mean over height and width.
        """
        o = self.config
        x = normalized(inputs["pixel_values"], o.image_mean, o.image_std, self.compute_dtype)
        if training and "mixup" in inputs:
            x = mix(x, inputs["mixup"])
        x = ops.relu(conv_norm(self.conv1, self.bn1, padded(x, self.conv1.kernel_size[0] // 2), training))
        if not o.small_stem:
            # Nothing is below 0 behind the ReLU, so zeros around the edge never are the largest.
            x = ops.max_pool(padded(x, 1), 3, strides=2, padding="valid")
        hidden_states = [x]
        for stage in self.stages:
            for block in stage:
                x = block(x, training=training)
            hidden_states.append(x)
        return {"last_hidden_state": x, "pooler_output": ops.mean(x, axis=(1, 2)),
                "hidden_states": tuple(hidden_states)}


class ResNetPreTrainedModel(PreTrainedModel):
    """What body and classifier share: folders under timm's or transformers' names."""

    config_class, base_model_prefix, head_prefixes = ResNetConfig, "resnet", ("fc.",)

    @classmethod
    def read_folder(cls, folder):
        """(config, {our name: array}) of a folder or of a file of torch in it (convert.py)."""
        return convert.read_checkpoint(folder)

    def own_tensors(self, tensors, new_head):
        """A file's tensors by our names; the body has no head to put one in."""
        return super().own_tensors(tensors, new_head or self.is_base)

    def reference_tensors(self):
        """{name in timm's and torchvision's files: tensor}"""
        return {name.removeprefix("resnet."): value for name, value in super().reference_tensors().items()}

    def save_pretrained(self, folder, names="timm"):
        """Writes config.json and model.safetensors.

        Args:
            names: of the tensors: "timm", which are torchvision's as well; or "transformers", for a folder that
                `transformers` loads.
        """
        convert.write_checkpoint(Path(folder), self, names)
        copy_companions(self, folder)


@keras.saving.register_keras_serializable("tfhf")
class ResNetModel(ResNetPreTrainedModel):
    """The body alone."""

    is_base = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.resnet = ResNetBody(config, name="resnet", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        self.resnet.build()
        self.built = True

    def call(self, inputs, training=False):
        """As `ResNetBody.call`."""
        return self.resnet(inputs, training=training)


@keras.saving.register_keras_serializable("tfhf")
class ResNetForImageClassification(ResNetPreTrainedModel):
    """The body with a linear layer over its mean features."""

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.resnet = ResNetBody(config, name="resnet", dtype=self.dtype_policy)
        # torch's own start: uniform within 1 / sqrt(features).
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.fc = keras.layers.Dense(config.num_labels, name="fc", dtype="float32", kernel_initializer=uniform)
        self.build()

    def build(self, input_shape=None):
        self.resnet.build()
        self.fc.build((None, self.config.hidden_sizes[-1]))
        self.built = True

    def call(self, inputs, training=False):
        """As `ResNetBody.call` -> logits float32 [batch, num_labels]."""
        return self.fc(self.resnet(inputs, training=training)["pooler_output"])
