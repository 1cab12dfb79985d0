"""A client that answers what a test tells it, and notes what it was asked."""

import numpy as np
import tensorflow as tf

from tfhf.client import Segment


def strings(*values):
    return np.array([value if isinstance(value, bytes) else value.encode() for value in values], object)


def png(pixels):
    return tf.io.encode_png(np.asarray(pixels)).numpy()


class StubClient:
    """`inputs`, `outputs`: names of serving_default's; `answer`: what predict gives."""

    def __init__(self, inputs, answer, more=None):
        self.answer, self.asked = answer, []
        self._metadata = {"serving_default": {"inputs": dict.fromkeys(inputs), "outputs": dict.fromkeys(answer)},
                          **(more or {})}

    def metadata(self):
        return self._metadata

    def predict(self, inputs, signature=""):
        self.asked.append((inputs, signature))
        return self.answer

    def transcribe(self, samples, rate_hz):
        self.asked.append((len(samples), rate_hz))
        return [Segment(0.0, 1.5, "Hello,"), Segment(1.5, 2.0, ""), Segment(2.0, 3.0, "<b>world</b>")]


DEPTH = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
LABELS = {"label": strings("good"), "probabilities": np.array([[0.2, 0.5, 0.3]], np.float32)}
WORDS = {"text": strings("hi all"), "words": np.array([strings("hi", "all", "")]),
         "word_starts": np.array([[0.1, 0.5, -1.0]]), "word_ends": np.array([[0.4, 0.9, -1.0]])}
STUBS = {
    "transcript": lambda: StubClient(["wav"], {"text": strings("hi")}),
    "sound_labels": lambda: StubClient(["wav"], LABELS,
                                       {"raw": {"inputs": {"input_values": {"shape": [-1, 32_000]}}, "outputs": {}}}),
    "continuation": lambda: StubClient(["prompt"], {"text": strings(" and <then>")}, {"sample": {}}),
    "text_labels": lambda: StubClient(["text"], LABELS),
    "image_labels": lambda: StubClient(["image"], LABELS),
    "depth": lambda: StubClient(["image"], {"depth": DEPTH[None],
                                            "depth_png": strings(png((DEPTH[..., None] * 100).astype(np.uint16)))}),
    "disparity": lambda: StubClient(["image"], {
        "disparity": 0.1 / DEPTH[None], "disparity_png": strings(png((8000 / DEPTH[..., None]).astype(np.uint16)))}),
    "enlarged": lambda: StubClient(["image"], {"image": strings(png(np.full((40, 60, 3), 200, np.uint8)))}),
}
