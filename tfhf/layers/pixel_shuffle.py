"""Sub-pixel convolution's rearrangement: channels become pixels (Shi et al. 2016, equation 4)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfhf")
class PixelShuffle(keras.layers.Layer):
    """[batch, height, width, scale^2 * channels] -> [batch, scale * height, scale * width, channels].

    Channel (i * scale + j) * channels + c becomes channel c of the pixel in row i, column j of its scale x scale block:
    TensorFlow's order (`tf.nn.depth_to_space`). torch's `PixelShuffle` takes c * scale^2 + i * scale + j instead; the
    kernel before it must be reordered when weights come from there.

    Args:
        scale: how many times as high and wide the output is.
    """

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"PixelShuffle: scale is {scale!r}; expected a whole number of 1 or more.")
        self.scale = scale

    def build(self, input_shape):
        if input_shape[-1] % self.scale**2:
            raise ValueError(f"{self.name}: {input_shape[-1]} channels; expected a multiple of scale^2 = "
                             f"{self.scale**2}.")
        self.built = True

    def call(self, x):
        s, channels = self.scale, x.shape[-1] // self.scale**2
        # A number where it is known, a tensor in a graph that takes several sizes.
        height, width = (x.shape[axis] or ops.shape(x)[axis] for axis in (1, 2))
        x = ops.reshape(x, (-1, height, width, s, s, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * s, width * s, channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        height, width = (None if size is None else size * self.scale for size in (height, width))
        return batch, height, width, channels // self.scale**2

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
