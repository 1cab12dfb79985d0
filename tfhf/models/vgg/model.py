"""VGG's convolutions up to the last one, before its activation: the features of perceptual losses.

Read from leaf to whole: the names that torchvision's file has, the network, and the reader of a published file. There
is no random VGG for such a loss: `VGGFeatures.from_pretrained` needs the file.
"""

import keras
from keras import ops

from tfhf import weights
from tfhf.layers.convolution import Conv2D
from tfhf.models.pretrained import ExportableModel
from tfhf.models.vgg.config import VGGConfig

# Of ImageNet in RGB, as torchvision's weights want it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFIX = "features."


def layer_numbers(config):
    """[(number of the convolution in torchvision's `features`, channels in, channels out, whether a pool comes first)].

    There each convolution is followed by its ReLU, each stage by its pool: of VGG19 the numbers are 0, 2, 5, 7 ... 34.
    """
    numbers, number, width = [], 0, 3
    for stage, (filters, count) in enumerate(zip(config.hidden_sizes, config.num_convolutions)):
        for place in range(count):
            numbers.append((number, width, filters, stage > 0 and place == 0))
            number, width = number + 2, filters
        number += 1
    return numbers


@keras.saving.register_keras_serializable("tfhf")
class VGGFeatures(ExportableModel):
    """The last convolution's output, before its ReLU: of VGG19 that of conv5_4, which SRGAN's paper calls phi_5,4.

    Frozen: nothing in it is trained.

    Args:
        config: a `VGGConfig`.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.features = [Conv2D(filters, 3, padding="same", name=f"features_{number}", dtype=policy)
                         for number, _, filters, _ in layer_numbers(config)]
        self.build()
        self.trainable = False

    @classmethod
    def from_pretrained(cls, path, config=VGGConfig(), **kwargs):
        """The network with the weights of a folder or hub id, such as timm/vgg19.tv_in1k.

        Args:
            path: it has model.safetensors with torchvision's names, `features.0.weight` to `features.34.bias`. What
                belongs to the classifier is passed over: nothing here could take it.

        Raises:
            ValueError: the path is None: features of random weights are no content loss.
            FileNotFoundError: there is no such folder, or no such file in it.
            tfhf.weights.WeightsError: a convolution is missing, left over or of another shape.
        """
        if path is None:
            raise ValueError("VGG19: the weights' path is None; expected a folder or hub id, as timm/vgg19.tv_in1k: "
                             "features of random weights are no content loss.")
        folder = weights.local_folder(path, allow_patterns=("*.safetensors", "*.json"))
        tensors = {name: value for name, value in weights.read_safetensors(folder).items() if name.startswith(PREFIX)}
        model = cls(config, **kwargs)
        weights.assign_reference_weights(model, tensors, where=folder)
        return model

    def build(self, input_shape=None):
        for layer, (_, width, _, _) in zip(self.features, layer_numbers(self.config)):
            layer.build((None, None, None, width))
        self.built = True

    def call(self, image, training=False):
        """float [batch, height, width, 3] in [0, 1] -> float32 [batch, height / 16, width / 16, 512], of VGG19."""
        x = (ops.cast(image, "float32") - ops.array(MEAN, "float32")) / ops.array(STD, "float32")
        for number, (layer, (_, _, _, pooled)) in enumerate(zip(self.features, layer_numbers(self.config))):
            if number:
                x = ops.relu(x)
            x = layer(ops.max_pool(x, 2) if pooled else x)
        return ops.cast(x, "float32")

    def get_config(self):
        return {"config": self.config.to_dict(), "name": self.name, "dtype": self.dtype_policy}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        return cls(VGGConfig.from_dict(config.pop("config")), **config)
