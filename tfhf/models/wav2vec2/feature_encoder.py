"""wav2vec 2.0's convolutions (Baevski et al. 2020, section 2): from the waveform to a frame each 20 ms.

Most of a step's bytes are moved here: the first activation has 3,200 frames a second. Read from leaf to whole.
"""

import keras
import numpy as np
from keras import ops

from tfhf.layers.convolution import Conv1D


def gelu(x):
    """The exact GELU, by the error function."""
    return ops.gelu(x, approximate=False)


def uniform(fan_in):
    """torch's initial values of a linear layer or a convolution."""
    return keras.initializers.RandomUniform(-fan_in**-0.5, fan_in**-0.5)


def own_waveform(input_values, input_lengths, do_normalize):
    """The waveform that the convolutions take, float32 [batch, samples] with silence behind each clip, and own samples
    int32 [batch]. int16 is raw PCM, and normalised over a clip's own samples; floats are taken as they are."""
    samples = input_values.shape[1]
    is_pcm = keras.backend.standardize_dtype(input_values.dtype) == "int16"
    waveform = ops.cast(input_values, "float32")
    lengths = ops.full((ops.shape(waveform)[0],), samples, "int32") if input_lengths is None else ops.cast(
        input_lengths, "int32")
    if input_lengths is None and not is_pcm:
        return waveform, lengths
    own = ops.cast(ops.arange(samples) < lengths[:, None], "float32")
    if is_pcm:
        waveform = waveform / 32768.0
        if do_normalize:
            count = ops.maximum(ops.cast(lengths, "float32"), 1.0)[:, None]
            waveform = waveform - ops.sum(waveform * own, axis=1, keepdims=True) / count
            variance = ops.sum(ops.square(waveform) * own, axis=1, keepdims=True) / count
            waveform = waveform * ops.rsqrt(variance + 1e-7)
    return waveform * own, lengths


class GroupNormConv(keras.layers.Layer):
    """The first convolution with one norm per channel over a clip's own frames, as one matrix product per clip.

    A convolution of one channel is linear in its `kernel` samples, so mean and variance of each output channel follow
    from mean and covariance of those samples: numbers of kernel x kernel instead of two passes over the largest
    activation of the whole model. Norm and convolution then are one product with a clip's own matrix.

    The covariance is taken in a cosine basis. Speech has a million times less power at high frequencies than at low
    ones; between neighbouring samples a high-pass filter's variance would be a difference of large numbers that float32
    cannot tell from zero. Between cosines it is a sum of small ones.
    """

    def __init__(self, config, **kwargs):
        super().__init__(autocast=False, **kwargs)   # the waveform must not be rounded to bfloat16
        self.width, self.kernel, self.stride = config.conv_dim[0], config.conv_kernel[0], config.conv_stride[0]
        self.conv = Conv1D(self.width, self.kernel, self.stride, use_bias=config.conv_bias, name="conv",
                           kernel_initializer="he_normal", dtype=self.dtype_policy)
        self.layer_norm = keras.layers.LayerNormalization(name="layer_norm", dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.conv.build((None, None, 1))
        self.layer_norm.build((None, None, self.width))
        self.built = True

    def call(self, waveform, lengths):
        """float32 waveform [batch, samples], own samples int32 [batch] -> [batch, frames, width]."""
        frames = (waveform.shape[1] - self.kernel) // self.stride + 1
        # Frames stand last: with the few samples of a window there, a TPU would fill each row of 10 up to 128.
        windows = frame_windows(waveform, self.kernel, self.stride)                   # [batch, kernel, frames]
        own = ops.arange(frames) < ((lengths - self.kernel) // self.stride + 1)[:, None]
        own = ops.cast(own, "float32")[:, None]
        count = ops.maximum(ops.sum(own, axis=2), 1.0)                                # [batch, 1]
        basis = cosine_basis(self.kernel)
        # Products and sums and no matmul: a TPU's matmul would round the waveform to bfloat16.
        cosines = ops.stack([ops.sum(windows * wave[:, None], axis=1) for wave in basis], axis=1)
        mean = _sum_of_frames(cosines * own) / count                                  # [batch, kernel]
        centred = (cosines - mean[:, :, None]) * own
        covariance = ops.stack([_sum_of_frames(centred * centred[:, i:i + 1]) for i in range(self.kernel)], axis=1)
        covariance = covariance / count[:, :, None]                                   # [batch, kernel, kernel]
        kernel = ops.cast(self.conv.kernel, "float32")[:, 0]                          # [kernel, width]
        turned = _small_matmul(ops.convert_to_tensor(basis)[None], kernel[None])      # [1, kernel, width], in cosines
        variance = ops.sum(turned * _small_matmul(covariance, turned), axis=1)        # [batch, width]
        scale = ops.cast(self.layer_norm.gamma, "float32") * ops.rsqrt(ops.maximum(variance, 0.0) + 1e-5)
        # A bias of the convolution would go out again with the mean.
        shift = ops.cast(self.layer_norm.beta, "float32") - scale * ops.sum(mean[:, :, None] * turned, axis=1)
        kernel = kernel * scale[:, None, :]                                           # [batch, kernel, width]
        windows, kernel, shift = (ops.cast(x, self.compute_dtype) for x in (windows, kernel, shift))
        return gelu(ops.einsum("bkf,bkc->bfc", windows, kernel) + shift[:, None, :])


def cosine_basis(size):
    """The orthonormal cosines of the DCT-II, float32 [frequency, sample]."""
    frequency, sample = np.arange(size)[:, None], np.arange(size)[None, :]
    basis = np.cos(np.pi * (sample + 0.5) * frequency / size)
    return (basis / np.linalg.norm(basis, axis=1, keepdims=True)).astype("float32")


def _sum_of_frames(x, block=256):
    """[batch, n, frames] -> [batch, n], summed block by block: one running sum of 50,000 frames loses three digits."""
    x = ops.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block)))
    return ops.sum(ops.sum(ops.reshape(x, (-1, x.shape[1], x.shape[2] // block, block)), axis=3), axis=2)


def frame_windows(waveform, kernel, stride):
    """[batch, samples] -> [batch, kernel, frames], window t beginning at sample t * stride; no gather."""
    last = waveform.shape[1] - kernel
    return ops.stack([waveform[:, i:last + i + 1:stride] for i in range(kernel)], axis=1)


def _small_matmul(a, b):
    """a [batch, n, n], b [batch or 1, n, m] -> [batch, n, m] in full float32 on every machine."""
    return ops.sum(a[:, :, :, None] * b[:, None], axis=2)


class ConvLayer(keras.layers.Layer):
    """A convolution, its norm if it has one, GELU."""

    def __init__(self, config, index, **kwargs):
        super().__init__(**kwargs)
        self.width, policy = config.conv_dim[index], self.dtype_policy
        self.in_width = config.conv_dim[index - 1] if index else 1
        self.kernel, self.stride = config.conv_kernel[index], config.conv_stride[index]
        self.conv = Conv1D(self.width, self.kernel, self.stride, use_bias=config.conv_bias, name="conv",
                           kernel_initializer="he_normal", bias_initializer=uniform(self.in_width * self.kernel),
                           dtype=policy)
        has_norm = config.feat_extract_norm == "layer"
        self.layer_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="layer_norm", dtype=policy) \
            if has_norm else None

    def build(self, input_shape=None):
        self.conv.build((None, None, self.in_width))
        if self.layer_norm is not None:
            self.layer_norm.build((None, None, self.width))
        self.built = True

    def call(self, x):
        """[batch, time, channels] -> [batch, (time - kernel) // stride + 1, width]."""
        x = self.conv(x)
        return gelu(x if self.layer_norm is None else self.layer_norm(x))


class Wav2Vec2FeatureEncoder(keras.layers.Layer):
    """The convolutions: a frame of 25 ms each 20 ms, in the published shapes."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.grouped = config.feat_extract_norm == "group"
        self.conv_layers = [
            GroupNormConv(config, name="conv_layers_0", dtype=policy) if self.grouped and i == 0
            else ConvLayer(config, i, name=f"conv_layers_{i}", dtype=policy) for i in range(len(config.conv_dim))]

    def build(self, input_shape=None):
        for layer in self.conv_layers:
            layer.build()
        self.built = True

    def call(self, waveform, lengths):
        """float32 waveform [batch, samples], own samples int32 [batch] -> [batch, frames, conv_dim[-1]]."""
        first, *others = self.conv_layers
        x = first(waveform, lengths) if self.grouped else first(ops.cast(waveform, self.compute_dtype)[:, :, None])
        for layer in others:
            x = layer(x)
        return x
