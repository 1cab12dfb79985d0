"""Where Whisper's special tokens lie: their order is the same in every published vocabulary."""

from dataclasses import dataclass

# OpenAI's order; large-v3 added yue at the end. Index = offset from the first language token.
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue").split()
# English names in the order of LANGUAGES; other names that people use stand in _ALIASES.
LANGUAGE_NAMES = (
    "english chinese german spanish russian korean french japanese portuguese turkish polish catalan dutch arabic "
    "swedish italian indonesian hindi finnish vietnamese hebrew ukrainian greek malay czech romanian danish hungarian "
    "tamil norwegian thai urdu croatian bulgarian lithuanian latin maori malayalam welsh slovak telugu persian latvian "
    "bengali serbian azerbaijani slovenian kannada estonian macedonian breton basque icelandic armenian nepali "
    "mongolian bosnian kazakh albanian swahili galician marathi punjabi sinhala khmer shona yoruba somali afrikaans "
    "occitan georgian belarusian tajik sindhi gujarati amharic yiddish lao uzbek faroese haitian_creole pashto turkmen "
    "nynorsk maltese sanskrit luxembourgish myanmar tibetan tagalog malagasy assamese tatar hawaiian lingala hausa "
    "bashkir javanese sundanese cantonese").split()
_ALIASES = {"burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb",
            "pushto": "ps", "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si",
            "castilian": "es", "mandarin": "zh"}
NAME_TO_CODE = {**{name.replace("_", " "): code for name, code in zip(LANGUAGE_NAMES, LANGUAGES)}, **_ALIASES}
TASKS = ("translate", "transcribe")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens: end of text, start, languages, tasks, and 1,501 timestamps of 20 ms."""

    end: int
    start: int
    num_languages: int
    multilingual: bool

    @classmethod
    def of(cls, config):
        """Of a `WhisperConfig`. English-only vocabularies have language tokens too, but never use them.

        Raises:
            ValueError: the vocabulary has no room for them.
        """
        count = config.vocab_size - config.decoder_start_token_id - 1508
        if count < 1:
            raise ValueError(f"vocab_size={config.vocab_size} with decoder_start_token_id="
                             f"{config.decoder_start_token_id} leaves no room for Whisper's 1,508 special tokens.")
        return cls(config.eos_token_id, config.decoder_start_token_id, count, config.is_multilingual)

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

    def language_code(self, language):
        """Code of a language given by code or by English name.

        Raises:
            ValueError: neither is known.
        """
        code = NAME_TO_CODE.get(str(language).lower(), str(language).lower())
        known = LANGUAGES[:self.num_languages]
        if code not in known:
            names = sorted(name for name, code in NAME_TO_CODE.items() if code in known)
            raise ValueError(f"Unknown language {language!r} to this vocabulary; expected a code or English name, one "
                             f"of: {', '.join(names)}.")
        return code

    def language(self, language):
        """Id of a language given by code or by English name; ValueError as `language_code`."""
        return self.first_language + LANGUAGES.index(self.language_code(language))

    def prefix(self, language, task, timestamps):
        """The tokens that open a transcript: start, language, task, and whether timestamps follow.

        Raises:
            ValueError: an unknown language or task, or one that an English-only model cannot do.
        """
        if task not in TASKS:
            raise ValueError(f"Unknown task {task!r}; expected one of: {', '.join(TASKS)}.")
        if not self.multilingual:
            if language is not None and self.language_code(language) != "en" or task != "transcribe":
                raise ValueError(f"An English-only model cannot do language={language!r}, task={task!r}.")
            return [self.start] if timestamps else [self.start, self.no_timestamps]
        if language is None:
            raise ValueError("A multilingual model needs a language here; detect it first.")
        prefix = [self.start, self.language(language), getattr(self, task)]
        return prefix if timestamps else [*prefix, self.no_timestamps]
