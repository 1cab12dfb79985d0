"""Whisper's feature extractor and tokenizer in one, from and to Hugging Face's files."""

import json
from pathlib import Path

import numpy as np
from keras import ops

from tfhf import weights
from tfhf.layers.log_mel import LogMelSpectrogram
from tfhf.models.processing import ClipTooLong, check_rate, check_waveforms, extractor_settings
from tfhf.models.whisper.convert import read_special_tokens
from tfhf.models.whisper.tokenizer import WhisperTokenizer


class WhisperFeatureExtractor:
    """Waveforms to log-mel features of one window.

    Args:
        num_mel_bins: 80, or 128 for large-v3.
        max_samples: length of the window: 480,000 samples, 30 s.
        sampling_rate: in Hz; Whisper knows 16,000 only.
    """

    def __init__(self, num_mel_bins=80, max_samples=480000, sampling_rate=16000):
        self.num_mel_bins, self.max_samples, self.sampling_rate = num_mel_bins, max_samples, sampling_rate
        self._log_mel = LogMelSpectrogram(num_mel_bins, sampling_rate)

    def pad(self, waveform):
        """float32 or int16 [samples] -> [max_samples], cut or filled with zeros."""
        waveform = np.asarray(waveform)[:self.max_samples]
        return np.pad(waveform, (0, self.max_samples - len(waveform)))

    def window(self, waveform, name="audio"):
        """The waveform filled up to the window, [max_samples]; unlike `pad` it cuts nothing.

        Raises:
            ClipTooLong: the waveform is longer than the window.
        """
        if len(waveform) > self.max_samples:
            raise ClipTooLong(f"{name}: {len(waveform) / self.sampling_rate:.1f} s, expected at most "
                              f"{self.max_samples / self.sampling_rate:.1f} s; `tfhf transcribe`, and in Python "
                              "model.transcribe, take any length.")
        return self.pad(waveform)

    def __call__(self, audio, sampling_rate=None):
        """Log-mel features.

        Args:
            audio: float waveform [samples] in [-1, 1), or a list of them.
            sampling_rate: of the waveforms; checked.

        Returns:
            float32 [batch, num_mel_bins, max_samples / 160].

        Raises:
            ValueError: another rate, no waveform, an empty one, one with channels, integers or values not finite.
        """
        check_rate(sampling_rate, self.sampling_rate)
        padded = np.stack([self.pad(waveform) for waveform in check_waveforms(audio)])
        return np.ascontiguousarray(ops.convert_to_numpy(self._log_mel(padded)).transpose(0, 2, 1))


class WhisperProcessor:
    """`feature_extractor` and `tokenizer` of one model."""

    def __init__(self, feature_extractor, tokenizer):
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer

    @classmethod
    def from_pretrained(cls, path):
        """From a Hugging Face folder or hub id, or a CTranslate2 folder: anything with a tokenizer.json, or
        with vocab.json and merges.txt.

        Raises:
            FileNotFoundError: no such folder, or no tokenizer.json in it.
        """
        folder = weights.local_folder(path, allow_patterns=("*.json", "merges.txt"))
        features, config = extractor_settings(folder), folder / "config.json"
        model = json.loads(config.read_text("utf-8")) if config.exists() else {}
        bins = features.get("feature_size") or model.get("num_mel_bins") or 80
        samples = features.get("n_samples") or 320 * model.get("max_source_positions", 1500)
        extractor = WhisperFeatureExtractor(bins, samples, features.get("sampling_rate", 16000))
        tokenizer = WhisperTokenizer(folder / "tokenizer.json")
        tokenizer.special = read_special_tokens(folder)   # that generation_config.json agrees is checked here
        return cls(extractor, tokenizer)

    def save_pretrained(self, folder):
        """Writes the files from which `transformers.WhisperProcessor` loads too."""
        folder, special = Path(folder), self.tokenizer.special
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        extractor = self.feature_extractor
        weights.write_json(folder / "preprocessor_config.json", {
            "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor",
            "feature_size": extractor.num_mel_bins, "sampling_rate": extractor.sampling_rate, "hop_length": 160,
            "n_fft": 400, "chunk_length": extractor.max_samples // extractor.sampling_rate,
            "n_samples": extractor.max_samples, "nb_max_frames": extractor.max_samples // 160, "padding_side": "right",
            "padding_value": 0.0, "return_attention_mask": False})
        end, added = "<|endoftext|>", self.tokenizer.added_tokens
        roles = {f"{role}_token": end for role in ("bos", "eos", "unk", "pad")}
        # transformers takes the last of these for the one before <|0.00|>.
        roles["additional_special_tokens"] = [token["content"] for token in sorted(added, key=lambda t: t["id"])
                                              if special.end <= token["id"] < special.first_timestamp]
        weights.write_json(folder / "special_tokens_map.json", roles)
        weights.write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor", **roles,
            "model_max_length": 1024, "add_prefix_space": False, "errors": "replace", "return_attention_mask": False,
            "multilingual": special.multilingual,
            "added_tokens_decoder": {str(token["id"]): {name: value for name, value in token.items() if name != "id"}
                                     for token in added}})

    def __call__(self, audio=None, sampling_rate=None, text=None):
        """{"input_features"} of audio, {"labels"} of a text or a list of texts (ids without prefix), or both.

        Raises:
            ValueError: neither was given, or the audio does not fit.
        """
        if audio is None and text is None:
            raise ValueError("Give audio, text, or both.")
        answer = {}
        if audio is not None:
            answer["input_features"] = self.feature_extractor(audio, sampling_rate)
        if text is not None:
            answer["labels"] = (self.tokenizer.encode(text) if isinstance(text, str)
                                else [self.tokenizer.encode(line) for line in text])
        return answer

    def batch_decode(self, ids, **options):
        """See `WhisperTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(ids, **options)

    def decode(self, ids, **options):
        """See `WhisperTokenizer.decode`."""
        return self.tokenizer.decode(ids, **options)

    def get_decoder_prompt_ids(self, **options):
        """See `WhisperTokenizer.get_decoder_prompt_ids`."""
        return self.tokenizer.get_decoder_prompt_ids(**options)
