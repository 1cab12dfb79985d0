"""wav2vec2's feature extractor and tokenizer in one, from and to Hugging Face's files."""

from pathlib import Path

import numpy as np

from tfhf import weights
from tfhf.models.processing import ClipTooLong, check_rate, check_waveforms, extractor_settings
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer


class Wav2Vec2FeatureExtractor:
    """Waveforms to the model's inputs: the waveforms themselves, normalised and filled up to one length.

    Args:
        sampling_rate: in Hz.
        do_normalize: each clip to mean 0 and variance 1 over its own samples.
    """

    def __init__(self, sampling_rate=16000, do_normalize=True):
        self.sampling_rate, self.do_normalize = sampling_rate, do_normalize

    def __call__(self, audio, sampling_rate=None, max_length=None):
        """The model's inputs for a batch of waveforms.

        Args:
            audio: float waveform [samples] in [-1, 1), or a list of them.
            sampling_rate: of the waveforms; checked.
            max_length: samples to fill the clips up to; of an ascending tuple of lengths, the first that holds the
                longest clip; None: as long as that clip.

        Returns:
            {"input_values": float32 [batch, samples], zeros behind each clip, "input_lengths": int32 [batch]}.

        Raises:
            ValueError: another rate, no waveform, an empty one, one with channels, integers or values not finite, or
                one longer than `max_length`.
        """
        check_rate(sampling_rate, self.sampling_rate)
        waveforms = check_waveforms(audio)
        lengths = np.array([len(waveform) for waveform in waveforms], "int32")
        longest = lengths.max()
        buckets = (longest,) if max_length is None else np.atleast_1d(max_length)
        length = next((bucket for bucket in buckets if bucket >= longest), None)
        if length is None:
            raise ValueError(f"audio {lengths.argmax()}: {longest} samples; expected at most {max(buckets)}.")
        if self.do_normalize:
            waveforms = [(w - w.mean()) / np.sqrt(w.var() + 1e-7) for w in waveforms]
        return {"input_values": np.stack([np.pad(w, (0, length - len(w))) for w in waveforms]),
                "input_lengths": lengths}

    def window(self, waveform, num_samples, name="audio"):
        """The inputs of one clip without the batch axis, as the input pipeline gives them: raw PCM, which the model
        normalises.

        Args:
            waveform: float [samples] in [-1, 1) at 16 kHz; louder samples are clipped.
            num_samples: length of the window.
            name: what to call the clip in an error.

        Returns:
            {"input_values": int16 [num_samples], silence behind the clip, "input_lengths": int32 scalar}.

        Raises:
            ClipTooLong: the waveform is longer than the window.
        """
        if len(waveform) > num_samples:
            raise ClipTooLong(f"{name}: {len(waveform) / self.sampling_rate:.1f} s, expected at most "
                              f"{num_samples / self.sampling_rate:.1f} s.")
        samples = np.clip(np.rint(np.asarray(waveform) * 32768.0), -32768, 32767).astype("int16")
        return {"input_values": np.pad(samples, (0, num_samples - len(samples))),
                "input_lengths": np.int32(len(samples))}

    @classmethod
    def from_pretrained(cls, path):
        """From a Hugging Face folder or hub id; a folder without the extractor's settings has the usual ones.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: the settings are another extractor's, whose inputs are no waveforms.
        """
        folder = weights.local_folder(path, allow_patterns=("*.json",))
        found = extractor_settings(folder)
        kind = found.get("feature_extractor_type") or cls.__name__   # early files do not name it
        if kind != cls.__name__ or found.get("feature_size", 1) != 1:
            raise ValueError(f"{folder}: has the settings of a {kind}, feature_size {found.get('feature_size', 1)}; "
                             f"expected a {cls.__name__}, feature_size 1.")
        return cls(found.get("sampling_rate", 16000), found.get("do_normalize", True))

    def save_pretrained(self, folder):
        """Writes preprocessor_config.json, from which transformers' extractor loads too."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        weights.write_json(Path(folder) / "preprocessor_config.json", {
            "feature_extractor_type": type(self).__name__, "processor_class": "Wav2Vec2Processor", "feature_size": 1,
            "sampling_rate": self.sampling_rate, "do_normalize": self.do_normalize, "padding_side": "right",
            "padding_value": 0.0, "return_attention_mask": True})


class Wav2Vec2Processor:
    """`feature_extractor` and `tokenizer` of one model."""

    def __init__(self, feature_extractor, tokenizer):
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer

    @classmethod
    def from_pretrained(cls, path, **changes):
        """From a Hugging Face folder or hub id; `changes` go to the tokenizer (target_lang="deu" for MMS).

        Raises:
            FileNotFoundError: no such folder, or no vocab.json in it: a checkpoint that was never fine-tuned to CTC
                has an extractor only.
            ValueError: files that do not fit; see the two parts.
        """
        return cls(Wav2Vec2FeatureExtractor.from_pretrained(path),
                   Wav2Vec2CTCTokenizer.from_pretrained(path, **changes))

    def save_pretrained(self, folder):
        """Writes the files from which `transformers.Wav2Vec2Processor` loads too."""
        self.tokenizer.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)

    def __call__(self, audio=None, sampling_rate=None, text=None, max_length=None):
        """The extractor's answer for audio, {"labels"} (ids) of a text or a list of texts, or both in one dict.

        Raises:
            ValueError: neither was given, or the audio does not fit.
        """
        if audio is None and text is None:
            raise ValueError("Give audio, text, or both.")
        answer = {} if audio is None else self.feature_extractor(audio, sampling_rate, max_length)
        if text is not None:
            answer["labels"] = self.tokenizer(text)["input_ids"]
        return answer

    def decode(self, ids, **options):
        """See `Wav2Vec2CTCTokenizer.decode`."""
        return self.tokenizer.decode(ids, **options)

    def batch_decode(self, ids, **options):
        """See `Wav2Vec2CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(ids, **options)
