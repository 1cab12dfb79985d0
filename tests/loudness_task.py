"""A task for the tests of exports: the loudness of a WAV file as a text. Small, with weights, and starts from bytes."""

import dataclasses
import io

import keras
import numpy as np
import soundfile
import tensorflow as tf
from keras import ops

from tfhf.config import Config
from tfhf.data.audio import load_audio
from tfhf.data.audio_graph import decode_to_16khz
from tfhf.data.schema import SPEECH_TEXT
from tfhf.task import Task

MAX_SAMPLES = 16000


def wav(count=4000, rate_hz=8000, level=0.3, seed=0, subtype="PCM_16", channels=1):
    """The bytes of a WAV file of noise."""
    samples = np.random.default_rng(seed).uniform(-level, level, (count, channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class LoudnessConfig(Config):
    width: int = 4
    pretrained: str = ""
    unit: str = "dB"


class Loudness(keras.Model):
    """audio float32 [b, samples] -> level in dB, float32 [b], moved by a weight."""

    def __init__(self, width):
        super().__init__()
        self.head = keras.layers.Dense(width, kernel_initializer="ones")
        self.head.build((None, 1))

    def call(self, audio):
        power = ops.mean(ops.square(audio), axis=1, keepdims=True)
        return ops.mean(self.head(10.0 * ops.log10(power + 1e-9)), axis=1)


class LoudnessTask(Task):
    name, Config, record_type, buckets = "loudness", LoudnessConfig, SPEECH_TEXT, (MAX_SAMPLES,)

    @classmethod
    def tiny(cls):
        return cls(LoudnessConfig())

    def build_model(self):
        return Loudness(self.config.width)

    def load_inputs(self, path):
        audio = load_audio(path)
        return {"audio": np.pad(audio, (0, MAX_SAMPLES - len(audio)))}

    def decode(self, model, inputs):
        return [f"{round(float(level))} {self.config.unit}" for level in model(inputs["audio"])]

    def signatures(self, model):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
        def serving_default(wav):
            level = model(decode_to_16khz(wav, MAX_SAMPLES))
            text = tf.strings.join([tf.as_string(tf.cast(tf.round(level), tf.int32)), f" {self.config.unit}"])
            return {"text": text, "level": level}

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="audio")])
        def raw(audio):
            return {"ids": tf.cast(tf.round(model(audio)), tf.int32)}

        return {"serving_default": serving_default, "raw": raw}

    def example_requests(self):
        audio = np.linspace(0.1, 0.9, 16, dtype="float32").reshape(2, 8)
        return {"serving_default": {"wav": [wav(), wav(3000, 44100, 0.05, 1, "PCM_24", 2)]}, "raw": {"audio": audio}}
