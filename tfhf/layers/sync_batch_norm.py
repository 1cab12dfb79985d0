"""Batch normalisation (Ioffe and Szegedy 2015) by the statistics of the whole batch, over all replicas.

Measured need: this file may import tensorflow. Keras' layer exchanges sums, squares and counts one by one; at each of
these, in each replica, TensorFlow looks for what they depend on through the graphs of all others, forward and backward.
To trace a ResNet-50's gradients for two virtual replicas takes 88 seconds of a CPU so, and 7 with this layer; the more
replicas, the worse. (On a TPU one trace serves all of them; there it is one exchange for three.)
"""

import keras


@keras.saving.register_keras_serializable("tfhf")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, whose replicas exchange their sums at once, where Keras' sums, squares and counts go one by one.

    Gradients of gradients do not go through the exchange.
    """

    def _moments(self, inputs, mask):
        if mask is not None or not self.synchronized:
            return super()._moments(inputs, mask)
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return super()._moments(inputs, mask)
        channels = inputs.shape[self.axis]
        count = tf.cast(tf.size(inputs) // channels, inputs.dtype)
        own = [tf.reduce_sum(inputs, self._reduction_axes), tf.reduce_sum(tf.square(inputs), self._reduction_axes),
               count[None]]
        total, squares, count = tf.split(_differentiable_sum(tf.concat(own, 0)), [channels, channels, 1])
        mean = total / count
        return mean, tf.maximum(squares / count - tf.square(mean), 0.0)


def _differentiable_sum(tensor):
    """The sum over all replicas, whose gradient is summed as well."""
    import tensorflow as tf

    from tfhf.strategy import sum_over_replicas

    return tf.custom_gradient(lambda part: (sum_over_replicas(part), sum_over_replicas))(tensor)
