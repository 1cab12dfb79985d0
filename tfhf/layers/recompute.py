"""Activation recomputation (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") that keeps its dice.

Measured need: this file may import tensorflow. XLA takes what `keras.remat` computes again for what is there already,
and drops it: by the compiler of a TPU v3, four layers of a wav2vec2 base take 2,449 MiB with it as without. A barrier
that XLA does not look through keeps the two apart, and ties the second computation to the gradient that asks for it,
so that it does not begin while the forward pass runs. keras.ops has none; JAX's own remat is built with one.
"""

import re

import keras
from keras import ops

AGAIN = "computed_again"   # in the names of ops that compute once more what the forward pass has computed


def is_again(op_name):
    """Whether an op, by its name, only computes what the forward pass has computed: no arithmetic of the model's."""
    # "gradients/computed_again/fc1/MatMul_grad/MatMul" is the gradient of such an op, and is computed once.
    return re.search(AGAIN + r"(_\d+)?/(?!.*_grad/)", op_name) is not None


def run(layer, recompute, *tensors, training):
    """`layer(*tensors, training=training)`; with `recompute`, its activations are computed again in the backward pass.

    `keras.remat` alone runs the layer's dropout a second time with the next draw, and the gradient belongs to another
    mask than the loss. So the random states are put back to what they were in the forward pass.
    """
    if not recompute:
        return layer(*tensors, training=training)
    remat = _remat_for_xla if xla_compiles() else keras.remat
    return _run_again(remat, lambda *again: layer(*again, training=training), [layer], tensors)


def keep_inputs(function, layers, *tensors):
    """`function(*tensors)`, of which XLA keeps the tensors and nothing in between for the backward pass.

    For elementwise work before a product, such as GELU: the product of the gradient takes it from the inputs, which is
    cheaper than to write it and read it again. The product itself is not computed again, as nothing asks for it.
    Without XLA the function just runs.

    Args:
        function: of tensors to one tensor.
        layers: those in it that draw random numbers.
    """
    return _run_again(_remat_for_xla, function, layers, tensors) if xla_compiles() else function(*tensors)


def _run_again(remat, function, layers, tensors):
    """`remat(function)(*tensors)`, with the draws of the first time in the second one too."""
    generators = [generator for layer in layers for part in layer._flatten_layers()
                  for generator in part._seed_generators]
    states = [ops.copy(ops.convert_to_tensor(generator.state.value)) for generator in generators]

    def again(*arguments):
        for generator, state in zip(generators, arguments[len(tensors):]):
            generator.state.assign(state)
        return function(*arguments[:len(tensors)])

    return remat(again)(*tensors, *states)


def xla_compiles():
    """Whether TensorFlow builds a graph here that XLA will compile; not on other backends."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def barrier():
    """A function that passes tensors on as values that XLA knows nothing of: what a gradient computes of them is not
    taken for what the forward pass has computed already. All of its results wait for all of its arguments. Call this
    in the forward pass; without XLA the function changes nothing."""
    if keras.backend.backend() == "jax":
        import jax

        return lambda *tensors: jax.lax.optimization_barrier(tensors)
    if not xla_compiles():
        return lambda *tensors: tensors
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return lambda *tensors: gen_xla_ops.xla_optimization_barrier(list(tensors))


def _remat_for_xla(function):
    """`function`, of tensors to one tensor, whose gradient computes it again behind a barrier."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    @tf.custom_gradient
    def once(*arguments):
        def gradient(upstream, variables=()):
            *behind, upstream = gen_xla_ops.xla_optimization_barrier([*arguments, upstream])
            with tf.name_scope(AGAIN):
                outputs = function(*behind)
            wanted = [tensor for tensor in behind if tensor.dtype.is_floating]
            found = tf.gradients(outputs, [*wanted, *variables], upstream, stop_gradients=behind)
            of_arguments = iter(found[:len(wanted)])
            return [next(of_arguments) if tensor.dtype.is_floating else None for tensor in behind], found[len(wanted):]

        return function(*arguments), gradient

    return once
