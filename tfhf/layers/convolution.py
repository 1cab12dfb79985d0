"""Convolutions that are right on every processor.

Measured need: this file may import tensorflow, to know where a convolution will run. On a processor with AMX (Intel's
Sapphire Rapids and later) the oneDNN of TensorFlow 2.20 computes some bfloat16 convolutions wrongly, in eager mode and
in graphs. Measured with the positional convolution of wav2vec2, group by group:

    groups of 4 channels                 off by 104 % of the largest value
    groups of 8 channels                 off by 111 %
    groups of 48 channels, as published  right

XLA is right, and so is ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16. Read, not measured: oneDNN 3.7.3 has a path of its own on
AMX for a bfloat16 kernel that is wider than one and has fewer than 16 channels in (jit_brgemm_conv_utils.cpp, "relo").
It leaves out depthwise convolutions. So on a CPU, outside of XLA, what has fewer channels than were seen to be right is
computed in float32. `tfhf doctor` tries the processor at hand.
"""

import keras
from keras import ops

RIGHT_CHANNELS = 48   # the smallest number that was seen to be right


def conv_dtype(dtype, kernel_shape):
    """The type to compute a convolution in whose inputs are of `dtype`: the same, or float32 in place of bfloat16.

    Args:
        kernel_shape: [taps, channels in, channels out], or with two or three dimensions of taps.
    """
    *taps, channels, _ = kernel_shape
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype != "bfloat16" or channels >= RIGHT_CHANNELS or max(taps) == 1:
        return dtype
    return "float32" if _on_a_cpu_without_xla() else dtype


def _on_a_cpu_without_xla():
    """Will an operation that is made now be computed by TensorFlow's own kernels, on a CPU?"""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    # What a TPUStrategy runs and what `jit_compile` compiles is traced in such a context, preflight's programs too.
    if tf.inside_function() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return False
    return not tf.config.list_logical_devices("GPU")


def conv(x, kernel, **options):
    """`keras.ops.conv` in `conv_dtype`; the result has the type of x."""
    dtype = conv_dtype(x.dtype, kernel.shape)
    return ops.cast(ops.conv(ops.cast(x, dtype), ops.cast(kernel, dtype), **options), x.dtype)


class _RightConv:
    """What the layers below change in Keras'."""

    def convolution_op(self, inputs, kernel):
        """See `keras.layers.Conv2D.convolution_op`."""
        dtype = conv_dtype(inputs.dtype, kernel.shape)
        found = super().convolution_op(ops.cast(inputs, dtype), ops.cast(kernel, dtype))
        return ops.cast(found, inputs.dtype)


@keras.saving.register_keras_serializable("tfhf")
class Conv1D(_RightConv, keras.layers.Conv1D):
    """Keras' layer, right on every processor; its padding is "valid" or "same"."""

    def call(self, inputs):
        if self.padding == "causal":
            raise ValueError(f"{self.name}: padding is 'causal', expected 'valid' or 'same'.")
        # Keras' own call of this layer does not go through `convolution_op`; its base class' does.
        return super(keras.layers.Conv1D, self).call(inputs)


@keras.saving.register_keras_serializable("tfhf")
class Conv2D(_RightConv, keras.layers.Conv2D):
    """Keras' layer, right on every processor."""
