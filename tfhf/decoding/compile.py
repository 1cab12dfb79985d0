"""Compiling a decoding function on the backend in use.

Measured need: this file may import tensorflow. `keras.ops` has loops but no way to compile a function outside
`fit`/`predict`, and a decoding loop run op by op is some twenty times slower.
"""

import contextlib
import contextvars

import keras
import numpy as np

_CALLS = contextvars.ContextVar("calls", default=None)


@contextlib.contextmanager
def not_run():
    """A context in which functions made by `compiled` are traced and not run: each answers with zeros of its shapes.

    Yields a list that gets (function, its arguments as tf.TensorSpec) of every call: what a decoding would run. The
    zeros are NumPy's, without memory of their own. TensorFlow backend only.
    """
    token = _CALLS.set([])
    try:
        yield _CALLS.get()
    finally:
        _CALLS.reset(token)


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

    if _CALLS.get() is not None:
        def recorded(*arguments):
            specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
            _CALLS.get().append((function, specs))
            traced = tf.function(function, autograph=False).get_concrete_function(*specs)
            return tf.nest.map_structure(lambda t: np.broadcast_to(np.zeros((), t.dtype.as_numpy_dtype), t.shape),
                                         traced.structured_outputs)

        return recorded
    return tf.function(function, jit_compile=jit_compile, autograph=False)


def compiled_once(owner, name, function, jit_compile, **static):
    """`compiled(function)` with the keyword arguments `static` (hashable), made once and kept by `owner`.

    Args:
        owner: object, a model, whose functions they are.
        name: of the function among the owner's.
        function: of tensors and of `static`.
        jit_compile: as in `compiled`.
    """
    store = owner.__dict__.setdefault("_compiled_functions", {})
    key = (name, jit_compile, tuple(sorted(static.items())))
    if key not in store:
        store[key] = compiled(lambda *tensors: function(*tensors, **static), jit_compile=jit_compile)
    return store[key]
