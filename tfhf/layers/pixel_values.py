"""Pixels as networks for classification want them."""

from keras import ops


def normalized(pixel_values, mean, std, dtype):
    """[batch, height, width, channels] -> the same of type `dtype`, normalised.

    uint8 0..255 becomes (pixel / 255 - mean) / std here, on the device: a quarter of the bytes on the way there. Floats
    are taken as they are, normalised already, as the image processors of transformers and timm give them.

    Args:
        mean, std: one number for each channel; or several of a grey image's, of which the mean is taken.
    """
    if "int" in str(pixel_values.dtype):
        channels = pixel_values.shape[-1]
        mean, std = (values if len(values) == channels else (sum(values) / len(values),) * channels
                     for values in (mean, std))
        pixel_values = (ops.cast(pixel_values, "float32") / 255.0 - ops.array(mean, "float32")) / ops.array(
            std, "float32")
    return ops.cast(pixel_values, dtype)
