"""What Whisper is trained to write for a record: the prompt with the record's language, the text, the end."""

import sys
import threading

import numpy as np

from tfhf.models.whisper.languages import LanguageError

_NO_LANGUAGE = ("", "und")   # und: undetermined, as ISO 639-2 has it


class TranscriptLabels:
    """Labels of records, each in its own language or all in one.

    Args:
        tokenizer: a `WhisperTokenizer`.
        language: of all labels, whatever the records say: code, English name or tag such as "pt-BR"; a record that says
            another one is reported once. None: that of each record.
        task: "transcribe" or "translate".
        leading_space: whether a space goes before the text.
        log: function that reports a line; None: it is printed to stderr.

    Raises:
        LanguageError: an unknown language or task, or one that an English-only model cannot do.
    """

    def __init__(self, tokenizer, language=None, task="transcribe", leading_space=True, log=None):
        self.tokenizer, self.task, self._space = tokenizer, task, " " if leading_space else ""
        try:
            self.language = tokenizer.special.check_request(language, task)
        except ValueError as error:
            raise LanguageError(f"task.language={language}, task.task={task}: {error}") from error
        self._log = log or (lambda line: print(line, file=sys.stderr, flush=True))
        self._lock, self._reported = threading.Lock(), False

    def of_record(self, text, language, clip, limit):
        """Prompt, text and end token of a record, int32 [time].

        Args:
            text, language, clip: of the record, as `tf.numpy_function` gives them: transcript, language or b"", id.
            limit: tokens in all.

        Raises:
            LanguageError: as `language_of`. TranscriptTooLong: more than `limit` tokens.
        """
        text, language, clip = (np.asarray(value).item().decode("utf-8") for value in (text, language, clip))
        language = self.language_of(language, clip)
        ids = self.tokenizer.labels(self._space + text.strip(), language, self.task, int(limit), clip)
        return np.array(ids, "int32")

    def language_of(self, record_language, clip):
        """The code of the language that a record's label is in; None of an English-only model without one given.

        Raises:
            LanguageError: the record says no language, one that the vocabulary lacks, or one that an English-only model
                cannot write.
        """
        said, special = record_language.strip(), self.tokenizer.special
        says_one = said not in _NO_LANGUAGE
        found, unknown = None, ""
        if says_one:
            try:
                found = special.language_code(said)
            except LanguageError as error:
                unknown = str(error)
        if self.language is not None:
            if says_one and found != self.language:
                self._report(said, clip)
            return self.language
        if not special.multilingual:
            if says_one and found != "en":
                raise LanguageError(f"{clip}: the record says {said!r}, but the model is English-only; expected a "
                                    "multilingual one, or task.language=en, which takes all records for English.")
            return found
        if not says_one:
            raise LanguageError(f"{clip}: the record says no language; expected one in each record, or "
                                "task.language=CODE, which gives one to all.")
        if found is None:
            raise LanguageError(f"{clip}: {unknown} task.language=CODE gives one to all records.")
        return found

    def prompts_of(self, decoder_input_ids):
        """The opening tokens of a batch's labels, int [batch, prefix], where each record has a language of its own.

        Args:
            decoder_input_ids: int [batch, time], or None where there are no labels.

        Returns:
            None where `language` holds for all, of an English-only model, and without labels.
        """
        special = self.tokenizer.special
        if self.language is not None or decoder_input_ids is None or not special.multilingual:
            return None
        return decoder_input_ids[:, :len(special.prefix("en", self.task, timestamps=False))]

    def _report(self, said, clip):
        with self._lock:
            if not self._reported:
                self._log(f"task.language={self.language}: labels begin with <|{self.language}|>, though records say "
                          f"another language; the first is {clip}, {said!r}")
            self._reported = True
