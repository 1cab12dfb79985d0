"""Whisper's tokenizer: byte-level BPE with languages, tasks and timestamps, over one tokenizer.json."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tfhf.models.whisper.special_tokens import LANGUAGES, TASKS, SpecialTokens
from tfhf.tokenizers.byte_level import byte_of_character
from tfhf.tokenizers.fingerprint import check_ids
from tfhf.tokenizers.folder import read_tokenizer_json

SECONDS_PER_TIMESTAMP = 0.02


class TranscriptTooLong(ValueError):
    """A transcript has more tokens than the limit."""


class WhisperTokenizer:
    """Text to ids and back.

    Args:
        path: a tokenizer.json (`tokenizers` format) with Whisper's special tokens; timestamps may be missing in it.

    Raises:
        ValueError: the file is damaged or not a BPE tokenizer, a special token that is needed is missing, or they are
            not in Whisper's order.
    """

    def __init__(self, path):
        self.path = str(path)
        self._content = read_tokenizer_json(path)
        content = self._parse()
        self.added_tokens = content.get("added_tokens", [])  # as the file has them
        ids = {token["content"]: token["id"] for token in self.added_tokens}
        self.special = SpecialTokens.of_tokens({**content["model"]["vocab"], **ids}.get, path)
        self._check_timestamps()
        # Published files mark timestamps as ordinary tokens: "<|0.00|>" in a text would become one. What somebody added
        # behind them is meant for texts, even where it is marked as special.
        last = self.special.last_timestamp
        marked = [{**token, "special": token["id"] <= last} for token in self.added_tokens]
        self._tokenizer = Tokenizer.from_str(json.dumps({**content, "added_tokens": marked}))
        self._tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a transcript is text, not the end
        self._more = {token["id"]: token for token in self.added_tokens if token["id"] > last}
        for number, token in self._more.items():   # the library counts on where ids are left out before an added token
            if self._tokenizer.token_to_id(token["content"]) != number:
                raise ValueError(f"{path}: the added token {token['content']!r} has id {number}, but the ids before it "
                                 "have no tokens; expected the timestamps among the added tokens too.")

    def _parse(self):
        try:
            content = json.loads(self._content)
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}: is damaged, not JSON: {error}.") from error
        kind = (content.get("model") or {}).get("type") if isinstance(content, dict) else None
        if kind != "BPE":
            raise ValueError(f"{self.path}: got a tokenizer of type {kind!r}; expected 'BPE'.")
        check_ids(content, self.path)
        return content

    def _check_timestamps(self):
        """Files of 2022 end before the timestamps; what was added to them stands where the model has timestamps."""
        for token in self.added_tokens:
            if self.special.is_timestamp(token["id"]):
                expected = f"<|{(token['id'] - self.special.first_timestamp) * SECONDS_PER_TIMESTAMP:.2f}|>"
                if token["content"] != expected:
                    raise ValueError(f"{self.path}: the added token {token['content']!r} has id {token['id']}, which "
                                     f"is the timestamp {expected} of the model; expected ids above "
                                     f"{self.special.last_timestamp}.")

    @property
    def vocab_size(self):
        """Ids in all, the 1,501 timestamps and the tokens that were added behind them included."""
        return max([self.special.count, *(number + 1 for number in self._more)])

    def added_texts(self, skip_special_tokens=True):
        """{id: text} of the tokens that somebody added behind the timestamps, those marked as special or not."""
        return {number: token["content"] for number, token in self._more.items()
                if not (skip_special_tokens and token.get("special"))}

    def encode(self, text):
        """Ids of the text, without special tokens: "<|en|>" or "<|0.00|>" in a text is spelt out. A token that somebody
        added behind Whisper's own is taken whole.

        The text is taken as it is: a leading space is the caller's choice.
        """
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids, skip_special_tokens=True, decode_with_timestamps=False):
        """Text of ids [time]; -100 and ids below 0 are passed over, timestamps are written as <|1.20|> if asked."""
        pieces, words, added = [], [], self.added_texts(skip_special_tokens)

        def flush():
            if words:
                pieces.append(self._tokenizer.decode(words, skip_special_tokens=False))
                words.clear()

        for number in np.asarray(ids).reshape(-1).tolist():
            if number < 0:
                continue
            if number < self.special.end:
                words.append(number)
            elif number > self.special.last_timestamp:   # without a text: a row that only fills up the embedding
                flush()
                pieces.append(added.get(number, ""))
            elif number >= self.special.first_timestamp:
                if decode_with_timestamps:
                    flush()
                    seconds = (number - self.special.first_timestamp) * SECONDS_PER_TIMESTAMP
                    pieces.append(f"<|{seconds:.2f}|>")
            elif not skip_special_tokens:
                flush()
                pieces.append(self._tokenizer.id_to_token(number) or f"<|{number}|>")
        flush()
        return "".join(pieces)

    def batch_decode(self, ids, **options):
        """`decode` of every row of ids [batch, time]."""
        return [self.decode(row, **options) for row in ids]

    def language_code(self, language):
        """Code of a language given by code or by English name.

        Raises:
            ValueError: neither is known.
        """
        return self.special.language_code(language)

    def prefix_tokens(self, language=None, task="transcribe", timestamps=False):
        """Ids that open a transcript."""
        return self.special.prefix(language, task, timestamps)

    def get_decoder_prompt_ids(self, language=None, task="transcribe", no_timestamps=True):
        """Hugging Face's form of the prefix: pairs (position, id) from position 1 on."""
        return list(enumerate(self.prefix_tokens(language, task, not no_timestamps)[1:], 1))

    def labels(self, text, language=None, task="transcribe", max_length=None, name="a transcript"):
        """Prefix, text and end token: what a model is trained to write.

        Raises:
            TranscriptTooLong: more than `max_length` ids.
        """
        ids = [*self.prefix_tokens(language, task), *self.encode(text), self.special.end]
        if max_length is not None and len(ids) > max_length:
            raise TranscriptTooLong(f"{name}: {text[:60]!r} has {len(ids)} tokens, prefix and end included; "
                                    f"expected at most {max_length}.")
        return ids

    def non_speech_tokens(self):
        """Ids that OpenAI suppresses, written but not spoken: brackets, musical notes, speaker marks."""
        marks = list("\"#()*+/:;<=>@[\\]^_`{|}~「」『』")
        marks += "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
        notes = set("♩♪♫♬♭♮♯")
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for mark in [*marks, *sorted(notes)]:
            for ids in (self.encode(mark), self.encode(" " + mark)):
                if len(ids) == 1 or mark in notes:
                    found.add(ids[0])
        return sorted(found)

    def save(self, folder):
        """Writes tokenizer.json as it was read, and vocab.json and merges.txt, which transformers before 5 wants."""
        folder, model = Path(folder), self._parse()["model"]
        (folder / "tokenizer.json").write_text(self._content, encoding="utf-8")
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def tiny_tokenizer_json(path, num_languages=2, end=256):
    """Writes a tokenizer.json of the 256 bytes, no merges, and Whisper's special tokens: for tests and tiny models.

    `end`: id of <|endoftext|>, the first special token; ids from 256 up to it are never written.
    """
    characters = {byte: character for character, byte in byte_of_character().items()}
    vocabulary = {characters[byte]: byte for byte in range(256)} | {f"unused {i}": i for i in range(256, end)}
    names = ["endoftext", "startoftranscript", *LANGUAGES[:num_languages], *TASKS, "startoflm", "startofprev",
             "nospeech", "notimestamps"]
    added = [{"id": end + i, "content": f"<|{name}|>", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, name in enumerate(names)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    Path(path).write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": []}}), encoding="utf-8")
