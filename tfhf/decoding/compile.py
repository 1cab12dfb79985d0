"""Compiling a decoding function on the backend in use.

Measured need: this file may import tensorflow. `keras.ops` has loops but no way to compile a function outside
`fit`/`predict`, and a decoding loop run op by op is some twenty times slower.
"""

import keras


def compiled(function, jit_compile):
    """`function` compiled once for each set of argument shapes.

    Args:
        function: of tensors, returning a structure of tensors; it may capture Keras variables.
        jit_compile: whether XLA compiles it (TensorFlow backend). A function for export must say False: stock TF
            Serving has XLA on CPU switched off.

    Returns:
        The compiled function. On Keras' JAX backend loops are compiled by `lax.while_loop` itself, the rest runs op by
        op, and the function is returned as it is.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=jit_compile, autograph=False)
