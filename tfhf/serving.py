"""Signatures that tasks share, for `Task.signatures`."""

import numpy as np
import tensorflow as tf

from tfhf.data.audio_graph import decode_with_lengths
from tfhf.data.shapes import to_int16


def waveform_signatures(model, max_samples, answer) -> dict:
    """The signatures of a model that takes waveforms with their lengths, such as wav2vec2.

    `serving_default`: wav string [batch], bytes of WAV files of any rate -> answer(logits). `raw`: input_values float32
    [batch, max_samples], normalised as the feature extractor does, and input_lengths int32 [batch] -> logits.

    Args:
        model: of {"input_values", "input_lengths"}, int16 or float waveforms at 16 kHz, to logits.
        max_samples: length that clips are filled up to; a longer one is an error.
        answer: function of the logits to a dict of named tensors, of core TensorFlow operations.
    """
    def logits_of(input_values, input_lengths):
        return model({"input_values": input_values, "input_lengths": input_lengths}, training=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
    def serving_default(wav):
        audio, lengths = decode_with_lengths(wav, max_samples)
        return answer(logits_of(to_int16(audio), lengths))

    @tf.function(input_signature=[tf.TensorSpec([None, max_samples], name="input_values"),
                                  tf.TensorSpec([None], tf.int32, name="input_lengths")])
    def raw(input_values, input_lengths):
        return {"logits": logits_of(input_values, input_lengths)}

    return {"serving_default": serving_default, "raw": raw}


def text_label_signatures(model, inputs_of, classes) -> dict:
    """The signatures of a model that gives a text one of several labels.

    `serving_default`: text string [batch], UTF-8 -> label string [batch] and probabilities float32 [batch, classes].
    `raw`: the inputs of the model, int32 [batch, max_tokens] -> logits.

    Args:
        model: of inputs to logits [batch, classes].
        inputs_of: function of text string [batch] to the model's inputs, of core TensorFlow operations.
        classes: names, in the order of the logits.
    """
    classes = np.array(classes)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serving_default(text):
        logits = model(inputs_of(text), training=False)
        return {"label": tf.gather(tf.constant(classes), tf.argmax(logits, axis=-1)),
                "probabilities": tf.nn.softmax(logits)}

    specs = inputs_of(tf.constant(["."]))
    names = sorted(specs)

    @tf.function(input_signature=[tf.TensorSpec([None, specs[name].shape[1]], tf.int32, name=name) for name in names])
    def raw(*inputs):
        return {"logits": model(dict(zip(names, inputs)), training=False)}

    return {"serving_default": serving_default, "raw": raw}
