"""Signatures that tasks share, for `Task.signatures`."""

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
