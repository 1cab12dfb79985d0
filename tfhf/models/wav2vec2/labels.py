"""What a CTC model is trained to write for a record, and whether the clip is long enough for it."""

import sys

import numpy as np

from tfhf.losses.ctc import frames_needed
from tfhf.models.wav2vec2.tokenizer import TranscriptTooLong


class CTCLabels:
    """Labels of records.

    Args:
        tokenizer: a `Wav2Vec2CTCTokenizer`.
        config: the model's `Wav2Vec2Config`, which tells the frames of a clip.
        unknown: as in `Wav2Vec2CTCTokenizer.labels`.
        max_symbols: of a label.
        zero_infinity: as in `CTCLoss`: then a clip that is too short for its transcript is no error.
        log: function that reports a line; None: it is printed to stderr.
    """

    def __init__(self, tokenizer, config, unknown="error", max_symbols=None, zero_infinity=False, log=None):
        self._tokenizer, self._config, self._unknown = tokenizer, config, unknown
        self._max_symbols, self._zero_infinity = max_symbols, zero_infinity
        self._log = log or (lambda line: print(line, file=sys.stderr, flush=True))
        self._reported = set()

    def of_record(self, text, clip, num_samples, training):
        """Ids of a record's transcript, int32 [symbols].

        Args:
            text, clip, num_samples: of the record, as `tf.numpy_function` gives them: transcript, id, length.
            training: whether a clip that is too short is an error; it is reported otherwise, since its prediction can
                still be scored.

        Raises:
            UnknownCharacters: see the tokenizer. TranscriptTooLong: more symbols than `max_symbols`, or more than the
                clip has frames.
        """
        text, clip = (np.asarray(value).item().decode("utf-8") for value in (text, clip))
        ids = self._tokenizer.labels(text, self._unknown, self._max_symbols, clip)
        frames, needed = max(int(self._config.feature_lengths(int(num_samples))), 0), frames_needed(ids)
        if needed > frames and not self._zero_infinity:
            seconds = int(num_samples) / 16000
            line = (f"{clip}: {text[:60]!r} has {len(ids)} symbols, for which CTC needs {needed} frames, but the clip "
                    f"of {seconds:.2f} s has {frames}; expected a longer clip or a shorter transcript. Its loss is "
                    "infinite; with task.zero_infinity=true such clips teach nothing instead.")
            if training:
                raise TranscriptTooLong(line)
            if clip not in self._reported:
                self._reported.add(clip)
                self._log(line)
        return np.array(ids, "int32")
