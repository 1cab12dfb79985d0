"""What the page shows for a recording, a text or an image: a served model's answers, made ready for people.

Knows no Gradio. A model is told by its signature, not by its name: what takes `wav` and answers `text` is a speech
recogniser, of whatever task.
"""

from __future__ import annotations

import os

import numpy as np
import PIL.Image

from tfhf.client import CHUNK_S, Segment, chunks, wav_bytes
from tfhf.data import image as images
from tfhf.data.audio import SAMPLE_RATE_HZ, load_audio
from tfhf.demo.pictures import spectrogram
from tfhf.pictures import colour_depth

MAX_SECONDS, MAX_LETTERS, MIN_SIDE = 600, 4000, 16
MAX_PIXELS, MAX_PIXELS_ENLARGED = 2**24, 2**19   # 4,096 x 4,096; a super-resolved pixel costs a CPU much more
DEADLINE_S = 180.0
# kind, its input, an output of its own
KINDS = (
    ("transcript", "wav", "text"), ("sound_labels", "wav", "probabilities"),
    ("continuation", "prompt", "text"), ("text_labels", "text", "probabilities"),
    ("image_labels", "image", "probabilities"), ("depth", "image", "depth_png"),
    ("disparity", "image", "disparity_png"), ("enlarged", "image", "image"))


class DemoError(ValueError):
    """What the page cannot take, in words for its user; and what keeps the command from starting."""


class Answers:
    """A served model, asked as people ask.

    Attributes:
        model: its name.
        kind: one of `KINDS`.
        samples: whether text can be sampled, with a temperature.
        max_seconds: of a recording.

    Args:
        client: a `tfhf.client.Client`.
        names: of the classes, in the order of the probabilities; () or of another model's number: only the label that
            the model itself answers has its name, the others are called by their numbers.

    Raises:
        DemoError: a model with no signature that the page knows.
    """

    def __init__(self, client, model, names=()):
        self._client, self.model, self._names = client, model, tuple(names)
        signatures = client.metadata()
        default = signatures.get("serving_default", {"inputs": {}, "outputs": {}})
        kinds = [kind for kind, given, answered in KINDS
                 if set(default["inputs"]) == {given} and answered in default["outputs"]]
        if not kinds:
            raise DemoError(f"model {model!r}: its serving_default takes {sorted(default['inputs'])} and answers "
                            f"{sorted(default['outputs'])}, for which there is no page; expected one of "
                            f"{', '.join(f'{given} -> {answered}' for _, given, answered in KINDS)}")
        self.kind, = kinds
        self.samples = "sample" in signatures
        self._has_words = {"words", "word_starts", "word_ends"} <= set(default["outputs"])
        # A model of waveforms takes no more than this; Whisper's window is what the client cuts for.
        waveform = signatures.get("raw", {"inputs": {}})["inputs"].get("input_values")
        longest_s = waveform["shape"][1] / SAMPLE_RATE_HZ if waveform else MAX_SECONDS
        self._chunk_s = min(CHUNK_S, longest_s)
        self.max_seconds = MAX_SECONDS if self.kind == "transcript" else longest_s

    def transcript(self, path):
        """A recording -> (text, its `Segment`s: words where the model times them, else parts; spectrogram).

        Raises:
            DemoError: nothing given, or too long; AudioError: no sound; ClientError: no answer.
        """
        samples = self._sound(path)
        segments = self._words(samples) if self._has_words else self._client.transcribe(samples, SAMPLE_RATE_HZ)
        return " ".join(part.text for part in segments if part.text), segments, spectrogram(samples)

    def _sound(self, path):
        """-> float32 [samples] at 16 kHz"""
        if not path:
            raise DemoError("No recording yet: record one, or upload a WAV, FLAC, MP3 or Ogg file.")
        name = os.path.basename(path)
        samples = load_audio(path, name=name)
        seconds = len(samples) / SAMPLE_RATE_HZ
        if seconds > self.max_seconds:
            raise DemoError(f"{name}: {seconds:.1f} seconds of sound, expected at most {self.max_seconds:g}.")
        return samples

    def _words(self, samples):
        found = []
        for start, end in chunks(samples, SAMPLE_RATE_HZ, self._chunk_s, min(6.0, self._chunk_s / 2)):
            answer = self._client.predict({"wav": [wav_bytes(samples[start:end], SAMPLE_RATE_HZ)]})
            begin = start / SAMPLE_RATE_HZ
            found += [Segment(begin + float(first), begin + float(last), word.decode("utf-8")) for word, first, last
                      in zip(answer["words"][0], answer["word_starts"][0], answer["word_ends"][0]) if word]
        return found

    def sound_labels(self, path):
        """A recording -> ({label: probability}, spectrogram). Raises what `transcript` raises."""
        samples = self._sound(path)
        answer = self._client.predict({"wav": [wav_bytes(samples, SAMPLE_RATE_HZ)]})
        return self._labelled(answer), spectrogram(samples)

    def text_labels(self, text):
        """A text -> {label: probability}.

        Raises:
            DemoError: no text, or too long; ClientError: no answer.
        """
        return self._labelled(self._client.predict({"text": [_text(text)]}))

    def continuation(self, prompt, temperature=0.0, seed=0):
        """A prompt -> how it goes on; the likeliest words at temperature 0. Raises what `text_labels` raises."""
        prompt = _text(prompt)
        if not temperature:
            return self._text_of(self._client.predict({"prompt": [prompt]}))
        given = {"prompt": [prompt], "temperature": np.float32(temperature), "seed": np.int32(seed)}
        return self._text_of(self._client.predict(given, "sample"))

    def image_labels(self, path):
        """An image -> {label: probability}.

        Raises:
            DemoError, ImageError: nothing given, no image, too small, too large; ClientError: no answer.
        """
        return self._labelled(self._client.predict({"image": [_image(path, MAX_PIXELS)[0]]}))

    def depth(self, path):
        """An image -> ((it, its depth in colours), both uint8 [height, width, 3]; a line about the distances). Raises
        what `image_labels` raises."""
        data, before = _image(path, MAX_PIXELS)
        answer = self._client.predict({"image": [data]})
        values, valid = (tensor.numpy() for tensor in images.decode_depth(answer[f"{self.kind}_png"][0], 1.0))
        if self.kind == "disparity":
            return (before, colour_depth(1 / np.where(valid, values, 1.0), valid)), "Yellow is near, blue is far."
        near, far = np.percentile(answer["depth"], (5, 95))
        return (before, colour_depth(values, valid)), f"Yellow is near, blue is far: {near:.1f} m to {far:.1f} m."

    disparity = depth

    def enlarged(self, path):
        """An image -> ((it enlarged by bicubic interpolation, super-resolved), both uint8 [height, width, 3]; a line
        about the sizes). Raises what `image_labels` raises."""
        data, small = _image(path, MAX_PIXELS_ENLARGED)
        answer = self._client.predict({"image": [data]})
        after = images.decode_checked(answer.get("image", answer.get("outputs"))[0], "the model's image")
        plain = images.to_uint8(images.resize(images.to_float(small), after.shape[:2], "bicubic")).numpy()
        sizes = [f"{image.shape[1]} × {image.shape[0]}" for image in (small, after)]
        return (plain, after), f"{sizes[0]} pixels become {sizes[1]}: left bicubic, right the model."

    def _labelled(self, answer):
        probabilities, label = answer["probabilities"][0], answer["label"][0].decode("utf-8")
        names = (list(self._names) if len(self._names) == len(probabilities)
                 else [f"class {number}" for number in range(len(probabilities))])
        names[int(np.argmax(probabilities))] = label
        labelled = {}
        for name, share in zip(names, probabilities):   # ImageNet has two classes of one name
            labelled[name] = labelled.get(name, 0.0) + float(share)
        return labelled

    @staticmethod
    def _text_of(answer):
        return answer.get("text", answer.get("outputs"))[0].decode("utf-8", "replace")


def _text(text):
    text = (text or "").strip()
    if not text:
        raise DemoError("No text yet: write some, or take one of the examples.")
    if len(text) > MAX_LETTERS:
        raise DemoError(f"{len(text)} letters, this page takes at most {MAX_LETTERS}.")
    return text


def _image(path, most):
    """-> (the bytes of the file, uint8 [height, width, 3])"""
    if not path:
        raise DemoError("No image yet: upload one, or take the example.")
    name = os.path.basename(path)
    try:
        with PIL.Image.open(path) as opened:   # reads the header only: a small file may say that it is huge
            width, height = opened.size
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DemoError(f"{name}: cannot be read as an image; expected a JPEG, PNG, GIF or BMP file of at most {most} "
                        "pixels.") from error
    if min(width, height) < MIN_SIDE or width * height > most:
        raise DemoError(f"{name}: {width} × {height} pixels; expected at least {MIN_SIDE} × {MIN_SIDE}, and at most "
                        f"{most} in all.")
    with open(path, "rb") as file:
        data = file.read()
    return data, images.decode_checked(data, name)
