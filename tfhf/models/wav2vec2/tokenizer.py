"""wav2vec2's tokenizer: characters as CTC symbols, one vocabulary or, as in MMS, one per language."""

import json
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from tfhf import weights
from tfhf.models.wav2vec2.letters import Speller, is_turkish, lower_case, upper_case, with_final_sigma

_ROLES = ("pad_token", "bos_token", "eos_token", "unk_token", "word_delimiter_token")
_SETTINGS = (*_ROLES, "replace_word_delimiter_char", "do_lower_case", "target_lang", "composed", "turkish_case")
_UNKNOWN = ("unk", "drop", "error")


class VocabularyError(ValueError):
    """A vocabulary that no CTC model can use, or an id or a language that it does not hold."""


class UnknownCharacters(ValueError):
    """A text has characters that the vocabulary lacks; the message lists them."""


class TranscriptTooLong(ValueError):
    """A transcript has more symbols than the limit."""


@dataclass(frozen=True)
class Wav2Vec2CTCTokenizerOutput:
    """A decoded text with its offsets in frames: lists of {"char" or "word", "start_offset", "end_offset"}; None where
    they were not asked for. From `batch_decode` each field is a list over the batch."""

    text: str | list
    char_offsets: list | None = None
    word_offsets: list | None = None


class Wav2Vec2CTCTokenizer:
    """Text to symbols and back, as transformers' class of this name.

    Args:
        vocab: {token: id}, or {language: {token: id}}, or the path of a vocab.json with either.
        bos_token, eos_token, unk_token: None, or a token that the vocabulary lacks: there is none.
        pad_token: CTC's blank. It and the delimiter must be in the vocabulary.
        word_delimiter_token: what stands for the space between words.
        replace_word_delimiter_char: what decoding writes for it.
        do_lower_case: the vocabulary is upper case; texts of any case are taken, lower case is written.
        target_lang: the language to begin with; needed exactly where the vocabulary is nested.
        composed: the vocabulary was made from composed texts (NFC), so that `labels` looks for that form first; else it
            looks for the text's own form first.
        turkish_case: whether I and ı, İ and i are pairs of a letter; None: where the vocabulary has ı or İ.

    Raises:
        VocabularyError: no blank or delimiter, an id twice or not a whole number from 0 on, no such language.
    """

    def __init__(self, vocab, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                 word_delimiter_token="|", replace_word_delimiter_char=" ", do_lower_case=False, target_lang=None,
                 composed=False, turkish_case=None):
        self._where = "vocabulary"
        if isinstance(vocab, (str, Path)):
            self._where, vocab = str(vocab), _read_json(Path(vocab))
        if not isinstance(vocab, dict) or not vocab:
            raise VocabularyError(f"{self._where}: got {str(vocab)[:60]!r}, expected a dict of tokens and their ids")
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = bos_token, eos_token, unk_token, pad_token
        self.word_delimiter_token = word_delimiter_token
        self.replace_word_delimiter_char = replace_word_delimiter_char
        self.do_lower_case = do_lower_case
        self.composed, self.turkish_case = composed, turkish_case
        self.vocab, self.nested = vocab, all(isinstance(part, dict) for part in vocab.values())
        self.dropped_characters = {}
        if self.nested:
            self.set_target_lang(target_lang)
        elif target_lang is not None:
            raise VocabularyError(f"{self._where}: target_lang is {target_lang!r}, but the vocabulary is not nested")
        else:
            self.target_lang = None
            self._use(vocab, self._where)

    def _use(self, encoder, where):
        wrong = {token: number for token, number in encoder.items()
                 if isinstance(number, bool) or not isinstance(number, int) or number < 0}
        if wrong:
            raise VocabularyError(f"{where}: ids must be whole numbers from 0 on, got {dict(list(wrong.items())[:3])}")
        twice = [number for number, count in Counter(encoder.values()).items() if count > 1]
        if twice:
            tokens = [token for token, number in encoder.items() if number == twice[0]]
            raise VocabularyError(f"{where}: {len(twice)} ids belong to more than one token, id {twice[0]} to {tokens}")
        for role, meaning in (("pad_token", "CTC's blank"), ("word_delimiter_token", "the space between words")):
            if getattr(self, role) not in encoder:
                raise VocabularyError(f"{where}: has no {getattr(self, role)!r}, {meaning}; give {role}=... the token "
                                      f"it has for it. It has {sorted(encoder)[:12]} ...")
        self.encoder, self.decoder = encoder, {number: token for token, number in encoder.items()}
        ids = [encoder.get(getattr(self, role)) for role in _ROLES]
        self.pad_token_id, self.bos_token_id, self.eos_token_id, self.unk_token_id, self.word_delimiter_token_id = ids
        self._special = {getattr(self, role) for role in _ROLES[:-1] if getattr(self, role) in encoder}
        self._units = _longest_first(encoder)
        # In labels special tokens are no more than their letters: a blank among labels would break CTC.
        self._label_ids = {token: number for token, number in encoder.items() if token not in self._special}
        self._label_units = _longest_first(self._label_ids)
        self._speller = Speller(self._label_ids, self.composed, self.turkish_case)

    @property
    def vocab_size(self):
        """How many symbols the model needs: the largest id and one."""
        return max(self.decoder) + 1

    def get_vocab(self):
        """{token: id}; of a nested vocabulary that of the target language."""
        return dict(self.encoder)

    def set_target_lang(self, target_lang):
        """Changes to the vocabulary of another language.

        Raises:
            VocabularyError: the vocabulary is not nested, or has no such language.
        """
        if not self.nested:
            raise VocabularyError(f"{self._where}: is not nested, so it has no target_lang to set ({target_lang!r})")
        if target_lang not in self.vocab:
            raise VocabularyError(f"{self._where}: target_lang is {target_lang!r}, expected one of its languages: "
                                  f"{', '.join(sorted(self.vocab))}")
        self._use(self.vocab[target_lang], f"{self._where}, language {target_lang!r}")
        self.target_lang = target_lang

    def encode(self, text, unknown="unk"):
        """Ids of the text, letter by letter, as transformers gives them.

        Tokens of several letters, "<unk>" among them, are taken whole and swallow the spaces beside them.

        Args:
            text: str; its case must be the vocabulary's.
            unknown: what a character that the vocabulary lacks becomes: "unk", "drop" (nothing) or "error".

        Raises:
            UnknownCharacters: there are some, and `unknown` is "error" or the vocabulary has no unk_token.
        """
        pieces = self._units.split(text) if self._units else [text]   # tokens of several letters at the odd places
        tokens = []
        for place, piece in enumerate(pieces):
            if place % 2:
                tokens.append(piece)
                continue
            piece = piece if place == 0 else piece.lstrip()
            piece = piece if place == len(pieces) - 1 else piece.rstrip()
            tokens += piece.upper() if self.do_lower_case else piece
        return self._ids(tokens, self.encoder, unknown, text)

    def _ids(self, tokens, table, unknown, text, name="a text"):
        if unknown not in _UNKNOWN:
            raise ValueError(f"unknown: got {unknown!r}, expected one of {_UNKNOWN}")
        tokens = [self.word_delimiter_token if token == " " else token for token in tokens]
        lacking = sorted(set(tokens) - set(table))
        if lacking and unknown != "drop" and (unknown == "error" or self.unk_token_id is None):
            raise UnknownCharacters(f"{name}: {text[:60]!r} has {_listed(lacking)}, which the vocabulary of "
                                    f"{self.vocab_size} symbols lacks; expected one of {_listed(sorted(table)[:60])}.")
        if unknown == "drop":
            return [table[token] for token in tokens if token in table]
        return [table.get(token, self.unk_token_id) for token in tokens]

    def __call__(self, text):
        """{"input_ids": `encode` of a text, or a list of those of a list of texts}."""
        return {"input_ids": self.encode(text) if isinstance(text, str) else [self.encode(line) for line in text]}

    def normalize(self, text):
        """The text as the vocabulary writes it: single spaces; a letter that the vocabulary lacks in its other case or
        Unicode form where it has that, a typographic apostrophe as the plain one."""
        return self._speller.spell(" ".join(text.replace(self.word_delimiter_token, " ").split()))

    def lower(self, text):
        """A decoded text in lower case where `do_lower_case` asks for that, by the vocabulary's pairs of letters."""
        return lower_case(text, self._speller.turkish) if self.do_lower_case else text

    def labels(self, text, unknown="error", max_length=None, name="a transcript"):
        """What a model is trained to write for a transcript: `normalize`, then ids. None of them is the blank:
        "<pad>" in a transcript is five letters.

        Args:
            unknown: as in `encode`. "drop" leaves no double space where a dropped character stood alone.
            max_length: of the ids.
            name: what to call the transcript in an error.

        Raises:
            UnknownCharacters: as in `encode`.
            TranscriptTooLong: more than `max_length` ids.
        """
        def tokens(line):
            parts = self._label_units.split(line) if self._label_units else [line]
            return [t for place, part in enumerate(parts) for t in ([part] if place % 2 else part)]

        line = self.normalize(text)
        if unknown == "drop":
            kept = [token for token in tokens(line) if token == " " or token in self._label_ids]
            line = " ".join("".join(kept).split())
        ids = self._ids(tokens(line), self._label_ids, unknown, text, name)
        if max_length is not None and len(ids) > max_length:
            raise TranscriptTooLong(f"{name}: {text[:60]!r} has {len(ids)} symbols; expected at most {max_length}.")
        return ids

    def pieces(self, skip_special_tokens=False):
        """What each id writes, a list of `vocab_size` strings: nothing for the blank, a space for the delimiter.

        `CharacterDecoder(pieces, do_lower_case)` is `decode(ids, group_tokens=False)` inside a graph.
        """
        written = dict.fromkeys(self._special if skip_special_tokens else [self.pad_token], "")
        written[self.word_delimiter_token] = self.replace_word_delimiter_char
        return [written.get(token, token) for token in map(self._token, range(self.vocab_size))]

    def _token(self, number):
        if number not in self.decoder and number >= self.vocab_size:
            raise VocabularyError(f"{self._where}: id {number}, expected at most {self.vocab_size - 1}")
        return self.decoder.get(number, self.unk_token or "")   # an id that the file leaves out

    def decode(self, ids, skip_special_tokens=False, group_tokens=True, output_char_offsets=False,
               output_word_offsets=False):
        """Text of one symbol per frame, or, with group_tokens=False, of labels.

        Args:
            ids: int [time]; ids below 0, such as the -100 behind labels, are passed over.
            skip_special_tokens: leave out bos, eos and unk. transformers leaves them and the blanks out before it
                groups, which makes one letter of "L <pad> L"; here grouping comes first.
            group_tokens: frames that repeat a symbol write it once.
            output_char_offsets, output_word_offsets: frames in which each character or word begins and ends.

        Returns:
            str, or a Wav2Vec2CTCTokenizerOutput if offsets are asked for.

        Raises:
            VocabularyError: an id beyond the vocabulary.
        """
        tokens = [self._token(number) for number in np.asarray(ids).reshape(-1).tolist() if number >= 0]
        runs = [(token, len(list(run))) for token, run in groupby(tokens)] if group_tokens else [(t, 1) for t in tokens]
        ends = np.cumsum([count for _, count in runs]).tolist()
        skipped = self._special if skip_special_tokens else {self.pad_token}
        offsets = [{"char": self.replace_word_delimiter_char if token == self.word_delimiter_token else token,
                    "start_offset": end - count, "end_offset": end}
                   for (token, count), end in zip(runs, ends) if token not in skipped]
        text = "".join(offset["char"] for offset in offsets).strip()
        text = self.lower(text)
        if not (output_char_offsets or output_word_offsets):
            return text
        words = _words(offsets, self.replace_word_delimiter_char) if output_word_offsets else None
        return Wav2Vec2CTCTokenizerOutput(text, offsets if output_char_offsets else None, words)

    def batch_decode(self, ids, **options):
        """`decode` of every row of ids [batch, time]."""
        rows = [self.decode(row, **options) for row in ids]
        if not (options.get("output_char_offsets") or options.get("output_word_offsets")):
            return rows
        return Wav2Vec2CTCTokenizerOutput(*([getattr(row, name) for row in rows]
                                            for name in ("text", "char_offsets", "word_offsets")))

    @classmethod
    def from_pretrained(cls, path, **changes):
        """From a Hugging Face folder or hub id; `changes` (such as target_lang="deu") go before what its files say.

        Raises:
            FileNotFoundError: no such folder, or no vocab.json in it.
            VocabularyError: a file is damaged, of another tokenizer, or the vocabulary cannot be used.
        """
        folder = weights.local_folder(path, allow_patterns=("*.json",))
        if not (folder / "vocab.json").exists():
            raise FileNotFoundError(f"{folder}: has no vocab.json.")
        roles, config, added = (_read_json(folder / name) if (folder / name).exists() else {}
                                for name in ("special_tokens_map.json", "tokenizer_config.json", "added_tokens.json"))
        kind = config.get("tokenizer_class", cls.__name__)
        if kind != cls.__name__:
            raise VocabularyError(f"{folder / 'tokenizer_config.json'}: is of a {kind}, expected a {cls.__name__}")
        found = {name: value for source in (roles, config) for name, value in source.items() if name in _SETTINGS}
        found = {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}
        vocab = _read_json(folder / "vocab.json")
        if vocab and not any(isinstance(part, dict) for part in vocab.values()):
            # transformers keeps tokens that were added after the vocabulary was made in other files.
            later = {token["content"]: int(number) for number, token in config.get("added_tokens_decoder", {}).items()}
            vocab = {**added, **later, **vocab}
        made = cls(vocab, **{**found, **changes})
        made._where = str(folder / "vocab.json")
        return made

    def save_pretrained(self, folder):
        """Writes vocab.json and tokenizer_config.json, from which transformers' tokenizer loads too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        order = self.vocab if self.nested else dict(sorted(self.vocab.items(), key=lambda item: item[1]))
        weights.write_json(folder / "vocab.json", order)
        # transformers would append a token that the vocabulary lacks: what is not there is named null.
        roles = {role: getattr(self, role) if getattr(self, role) in self.encoder else None for role in _ROLES}
        weights.write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": type(self).__name__, "processor_class": "Wav2Vec2Processor", **roles,
            "replace_word_delimiter_char": self.replace_word_delimiter_char, "do_lower_case": self.do_lower_case,
            "target_lang": self.target_lang, **self._own_settings()})
        weights.write_json(folder / "special_tokens_map.json", {k: v for k, v in roles.items() if v is not None})

    def _own_settings(self):
        """What transformers does not know, where it differs from the default."""
        own = {"composed": self.composed or None, "turkish_case": self.turkish_case}
        return {name: value for name, value in own.items() if value is not None}

    @classmethod
    def from_corpus(cls, texts, case="lower", keep="'", min_count=1, log=None):
        """A vocabulary of the letters of a corpus: <pad>, <s>, </s>, <unk>, |, then letters by code point, so that it
        depends on the set of texts and not on their order.

        Letters, the marks on them and digits are taken, and the characters in `keep`; everything else is dropped, with
        a report of what and how often. `labels(text, unknown="drop")` drops the same.

        Args:
            texts: iterable of str, gone through once.
            case: "lower", "upper" or None: that of the texts. Where a twentieth of all i are ı or İ, as in Turkish, I
                is the upper case of ı, and İ that of i.
            keep: other characters to take.
            min_count: a character seen less often is dropped.
            log: called with each line of the report; None: printed to stderr.

        Returns:
            The tokenizer; `dropped_characters` is {character: how often it was seen}.

        Raises:
            ValueError: another case, or no character is left.
        """
        if case not in ("lower", "upper", None):
            raise ValueError(f"case: got {case!r}, expected 'lower', 'upper' or None")
        log = log or (lambda line: print(line, file=sys.stderr, flush=True))
        seen, lines = Counter(), 0
        for text in texts:
            text = unicodedata.normalize("NFC", text).replace("’", "'")
            seen.update(with_final_sigma(text) if case == "lower" else text)
            lines += 1
        turkish, counts = is_turkish(seen), Counter()
        for letter, count in seen.items():
            cased = {"lower": lower_case, "upper": upper_case}[case](letter, turkish) if case else letter
            counts.update(dict.fromkeys(cased, count))
        counts = {letter: count for letter, count in sorted(counts.items()) if not letter.isspace()}
        kept = [letter for letter, count in counts.items() if count >= min_count and letter != "|"
                and (unicodedata.category(letter)[0] in "LM" or unicodedata.category(letter) == "Nd" or letter in keep)]
        if not kept:
            raise ValueError(f"from_corpus: {lines} texts with {len(counts)} different characters leave no letter")
        vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *kept])}
        rare = not turkish and bool({"ı", "İ"} & set(kept))   # of foreign names: I stays the upper case of i
        made = cls(vocabulary, composed=True, turkish_case=False if rare else None)
        made.dropped_characters = {letter: count for letter, count in counts.items() if letter not in kept}
        log(f"vocabulary: {made.vocab_size} symbols from {lines} texts: {' '.join(kept)}")
        for letter, count in made.dropped_characters.items():
            log(f"vocabulary: dropped {_listed([letter])}, seen {count} times")
        return made


def _longest_first(tokens):
    """A pattern of the tokens of several letters, or None; of two that fit, the longer one is taken."""
    several = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, several))})") if several else None


def _words(offsets, delimiter):
    """Offsets of characters -> offsets of the words between delimiters."""
    words = []
    for is_delimiter, run in groupby(offsets, lambda offset: offset["char"] == delimiter):
        run = list(run)
        if not is_delimiter:
            words.append({"word": "".join(offset["char"] for offset in run), "start_offset": run[0]["start_offset"],
                          "end_offset": run[-1]["end_offset"]})
    return words


def _listed(characters):
    """'"a" (U+0061), ...'; control characters and lone marks cannot be told by their looks."""
    return ", ".join(f"{token!r} (U+{ord(token):04X})" if len(token) == 1 and not token.isascii() else repr(token)
                     for token in characters)


def _read_json(path):
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:   # no JSON, or no UTF-8
        raise VocabularyError(f"{path}: is damaged, not JSON in UTF-8: {error}") from error
