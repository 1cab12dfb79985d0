"""Where Whisper's special tokens lie: their order is the same in every published vocabulary."""

from dataclasses import dataclass

from tfhf.models.whisper.languages import LANGUAGES, NAME_TO_CODE, language_code

__all__ = ["LANGUAGES", "NAME_TO_CODE", "TASKS", "SpecialTokens"]

TASKS = ("translate", "transcribe")


# The families of published models, by the ids of <|endoftext|> and <|startoftranscript|> and by mel bins, which stay
# when rows are added to the embedding; None: of any number of bins.
_FAMILIES = {(50256, 50257, None): 99, (50257, 50258, 80): 99, (50257, 50258, 128): 100}
_TINY = (256, 257, 1767)   # of `write_tiny_checkpoint`, with two languages
TIMESTAMPS = 1501          # <|0.00|> to <|30.00|> in steps of 20 ms


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens: end of text, start, languages, tasks, and 1,501 timestamps of 20 ms.

    Whatever comes behind the timestamps was added by somebody, or is padding: it is no special token of Whisper.
    """

    end: int
    start: int
    num_languages: int
    multilingual: bool

    @classmethod
    def of(cls, config):
        """Of a `WhisperConfig` alone, without the files of a checkpoint: that of a published model.

        Raises:
            ValueError: the config is of no published family, or its vocabulary has no room for the special tokens.
        """
        made = cls.published(config)
        if made is not None:
            return made
        if config.vocab_size < config.decoder_start_token_id + 7 + TIMESTAMPS:
            raise ValueError(f"vocab_size={config.vocab_size} with decoder_start_token_id="
                             f"{config.decoder_start_token_id} leaves no room for Whisper's 1,508 special tokens.")
        raise ValueError(
            f"vocab_size={config.vocab_size}, num_mel_bins={config.num_mel_bins}, eos_token_id={config.eos_token_id} "
            f"and decoder_start_token_id={config.decoder_start_token_id} are of no published family, so they do not "
            "tell where its special tokens lie; expected its tokenizer.json or generation_config.json beside the "
            "weights, or model.set_special_tokens(WhisperTokenizer(...).special).")

    @classmethod
    def published(cls, config):
        """Of a `WhisperConfig` of a published family, also of one whose vocabulary has more rows; None of any other.

        English-only vocabularies have language tokens too, but never use them.
        """
        ids = (config.eos_token_id, config.decoder_start_token_id)
        count = _FAMILIES.get((*ids, None)) or _FAMILIES.get((*ids, config.num_mel_bins))
        if (*ids, config.vocab_size) == _TINY:
            count = 2
        made = None if count is None else cls(*ids, count, multilingual=ids[0] == 50257)
        return made if made is not None and made.count <= config.vocab_size else None

    @classmethod
    def of_tokens(cls, token_to_id, where):
        """By the names of the tokens.

        Args:
            token_to_id: function of a token -> its id, or None.
            where: file, for the errors.

        Raises:
            ValueError: one is missing, or they are not in Whisper's order.
        """
        ids = {name: token_to_id(f"<|{name}|>") for name in
               ("endoftext", "startoftranscript", "translate", "transcribe", "notimestamps")}
        missing = [name for name, number in ids.items() if number is None]
        if missing:
            raise ValueError(f"{where}: lacks the special tokens {missing}; expected a Whisper tokenizer.")
        languages = ids["translate"] - ids["startoftranscript"] - 1
        # English-only vocabularies end their text at 50256, before the multilingual ones' extra token.
        made = cls(ids["endoftext"], ids["startoftranscript"], languages, multilingual=ids["endoftext"] == 50257)
        expected = {"transcribe": made.transcribe, "notimestamps": made.no_timestamps}
        expected |= {f"{0.02 * step:.2f}": made.first_timestamp + step for step in (0, 1, TIMESTAMPS - 1)}
        expected |= {code: made.first_language + place for place, code in enumerate(LANGUAGES[:languages])}
        for name, number in expected.items():
            found = token_to_id(f"<|{name}|>")
            if found not in (None, number):
                raise ValueError(f"{where}: <|{name}|> has id {found}; expected {number} by Whisper's order.")
        return made

    @classmethod
    def of_generation_config(cls, content, where):
        """By a generation_config.json; None where it does not tell, as those of 2022 do not.

        Args:
            content: of the file, a dict.
            where: the file, for the errors.

        Raises:
            ValueError: its ids do not fit each other.
        """
        end, start = content.get("eos_token_id"), content.get("decoder_start_token_id")
        last = content.get("no_timestamps_token_id")
        if not all(isinstance(number, int) for number in (end, start, last)):
            return None
        multilingual = bool(content.get("is_multilingual", end == 50257))
        made = cls(end, start, last - start - 6, multilingual)
        told = {**(content.get("lang_to_id") or {}),
                **{f"<|{task}|>": number for task, number in (content.get("task_to_id") or {}).items()},
                "<|startofprev|>": content.get("prev_sot_token_id")}
        expected = {"<|startofprev|>": made.start_of_previous, "<|translate|>": made.translate,
                    "<|transcribe|>": made.transcribe}
        expected |= {f"<|{code}|>": made.first_language + place for place, code in
                     enumerate(LANGUAGES[:max(made.num_languages, 0)])}
        wrong = [f"{name} {number}, expected {expected.get(name, 'none')}" for name, number in told.items()
                 if number not in (None, expected.get(name))]
        if made.num_languages < 1 or wrong:
            raise ValueError(f"{where}: decoder_start_token_id={start} and no_timestamps_token_id={last} do not fit "
                             f"each other or its other ids ({'; '.join(wrong[:3]) or 'no room for languages'}); "
                             "expected Whisper's order. Remove the file if it belongs to another model.")
        return made

    @property
    def first_language(self):
        """Id of <|en|>."""
        return self.start + 1

    @property
    def translate(self):
        """Id of <|translate|>."""
        return self.first_language + self.num_languages

    @property
    def transcribe(self):
        """Id of <|transcribe|>."""
        return self.translate + 1

    @property
    def start_of_previous(self):
        """Id of <|startofprev|>."""
        return self.translate + 3

    @property
    def no_speech(self):
        """Id of <|nospeech|>."""
        return self.translate + 4

    @property
    def no_timestamps(self):
        """Id of <|notimestamps|>."""
        return self.translate + 5

    @property
    def first_timestamp(self):
        """Id of <|0.00|>."""
        return self.translate + 6

    @property
    def last_timestamp(self):
        """Id of <|30.00|>."""
        return self.first_timestamp + TIMESTAMPS - 1

    @property
    def count(self):
        """Ids up to the last timestamp: what a vocabulary needs at least."""
        return self.last_timestamp + 1

    def is_timestamp(self, number):
        """Whether an id, or each of an array, is a timestamp."""
        return (self.first_timestamp <= number) & (number <= self.last_timestamp)

    @property
    def languages(self):
        """Codes of the languages that the vocabulary has, in the order of their ids."""
        return LANGUAGES[:self.num_languages]

    def language_code(self, language):
        """Code of a language given by code, English name or tag with a region; see `languages.language_code`.

        Raises:
            ValueError: the vocabulary has no such language.
        """
        return language_code(language, self.languages)

    def language(self, language):
        """Id of a language; as `language_code`."""
        return self.first_language + LANGUAGES.index(self.language_code(language))

    def check_request(self, language, task):
        """The code of a language, None for None, once it is sure that the model can do it.

        Raises:
            ValueError: an unknown language or task, or one that an English-only model cannot do.
        """
        self.prefix(language or "en", task, timestamps=True)
        return None if language is None else self.language_code(language)

    def prefix(self, language, task, timestamps):
        """The tokens that open a transcript: start, language, task, and whether timestamps follow.

        Raises:
            ValueError: an unknown language or task, or one that an English-only model cannot do.
        """
        if task not in TASKS:
            raise ValueError(f"Unknown task {task!r}; expected one of: {', '.join(TASKS)}.")
        if not self.multilingual:
            if language is not None and self.language_code(language) != "en" or task != "transcribe":
                raise ValueError(f"An English-only model cannot do language={language!r}, task={task!r}; expected "
                                 "language='en' and task='transcribe', or a multilingual model.")
            return [self.start] if timestamps else [self.start, self.no_timestamps]
        if language is None:
            raise ValueError("A multilingual model needs a language here; detect it first.")
        prefix = [self.start, self.language(language), getattr(self, task)]
        return prefix if timestamps else [*prefix, self.no_timestamps]
