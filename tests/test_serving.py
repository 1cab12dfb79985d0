"""Shared signatures: the two ways into a waveform model agree."""

import numpy as np
import soundfile
import tensorflow as tf

from tfhf.data.audio import tone_wav
from tfhf.data.image_view import ImageView
from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForSequenceClassification
from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor
from tfhf.serving import image_label_signatures, waveform_signatures


def test_wav_bytes_and_features_give_the_same(tmp_path):
    model = Wav2Vec2ForSequenceClassification(tiny_config())
    signatures = waveform_signatures(model, 16000, lambda logits: {"best": tf.argmax(logits, -1), "logits": logits})
    (tmp_path / "tone.wav").write_bytes(tone_wav(0.5))
    audio, _ = soundfile.read(tmp_path / "tone.wav", dtype="float32")
    features = Wav2Vec2FeatureExtractor()(audio, 16000, max_length=16000)
    served = signatures["serving_default"](tf.constant([tone_wav(0.5), tone_wav(1.0)]))
    raw = signatures["raw"](features["input_values"], features["input_lengths"])
    assert set(served) == {"best", "logits"} and served["logits"].shape == (2, 2)
    np.testing.assert_allclose(served["logits"][:1], raw["logits"], atol=1e-4)


def test_image_bytes_and_pixels_give_the_same_label():
    view = ImageView(8)

    def model(inputs, training):
        return tf.reduce_mean(tf.cast(inputs["pixel_values"], tf.float32), [1, 2]) / 50.0

    signatures = image_label_signatures(model, view.middle, ("red", "green", "blue"))
    images = [np.full(shape, colour, "uint8") for shape, colour in (((9, 20, 3), (200, 10, 10)),
                                                                    ((30, 8, 3), (0, 50, 220)))]
    served = signatures["serving_default"](tf.stack([tf.io.encode_png(image) for image in images]))
    assert served["label"].numpy().tolist() == [b"red", b"blue"]
    logits = signatures["raw"](tf.stack([view.middle_of(image) for image in images]))["logits"]
    np.testing.assert_allclose(served["probabilities"], tf.nn.softmax(logits), atol=1e-6)
    np.testing.assert_allclose(logits[0], np.array([200, 10, 10]) / 50, atol=1e-3)
