"""PReLU (He et al. 2015, section 2.1)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfhf")
class PReLU(keras.layers.PReLU):
    """Keras' layer, going over the pixels three times and not five: x, or alpha * x where x is negative."""

    def call(self, inputs):
        return ops.where(inputs > 0, inputs, self.alpha * inputs)
