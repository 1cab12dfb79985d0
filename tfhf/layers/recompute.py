"""Activation recomputation (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") that keeps its dice."""

import keras
from keras import ops


def run(layer, recompute, *tensors, training):
    """`layer(*tensors, training=training)`; with `recompute`, its activations are computed again in the backward pass.

    `keras.remat` alone runs the layer's dropout a second time with the next draw, and the gradient belongs to another
    mask than the loss. So the random states are put back to what they were in the forward pass.
    """
    if not recompute:
        return layer(*tensors, training=training)
    generators = [generator for part in layer._flatten_layers() for generator in part._seed_generators]
    states = [ops.copy(ops.convert_to_tensor(generator.state.value)) for generator in generators]

    def again(*arguments):
        for generator, state in zip(generators, arguments[len(tensors):]):
            generator.state.assign(state)
        return layer(*arguments[:len(tensors)], training=training)

    return keras.remat(again)(*tensors, *states)
