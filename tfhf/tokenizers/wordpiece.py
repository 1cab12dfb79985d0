"""BERT's WordPiece inside a graph through tensorflow-text: the quick way for input pipelines.

tfhf/tokenizers/bert_wordpiece.py has the same in core operations, for exports, with the ids of the `tokenizers` library
for every character. FastBertTokenizer folds case by NFKC where the vocabulary is uncased ("ß" becomes "ss", "…" three
full stops), so its ids differ there; they are equal for what NFKC leaves alone, accents included.
"""

import json

import tensorflow as tf

from tfhf.data import storage
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.tensorflow_text import tensorflow_text


class WordPiece:
    """A BERT tokenizer.json inside the graph. Special tokens in a text are text; `pair_batch`
    (tfhf/tokenizers/batches.py) adds [CLS] and [SEP].

    Args:
        content: the text of a tokenizer.json.
        name: what messages call it.

    Attributes:
        vocab_size: int.
        fingerprint: str.

    Raises:
        ValueError: not WordPiece with BERT's normaliser and pre-tokeniser, added tokens that are not special, or ids
            that are not 0, 1, 2 ...
        TensorFlowTextMissing: the extra `text` is not installed.
    """

    def __init__(self, content, name="tokenizer.json"):
        self.fingerprint = fingerprint(content)
        parsed = json.loads(content)
        for part, expected in (("model", "WordPiece"), ("normalizer", "BertNormalizer"),
                               ("pre_tokenizer", "BertPreTokenizer")):
            got = (parsed.get(part) or {}).get("type")
            if got != expected:
                raise ValueError(f"{name}: {part} is {got!r}, expected {expected!r}")
        model, settings = parsed["model"], parsed["normalizer"]
        strip = settings["lowercase"] if settings["strip_accents"] is None else settings["strip_accents"]
        if strip != settings["lowercase"] or not settings["clean_text"] or not settings["handle_chinese_chars"]:
            raise ValueError(f"{name}: normalizer is {settings}, expected lower case and no accents, or neither, with "
                             "clean_text and handle_chinese_chars: what tensorflow-text has")
        for token in parsed.get("added_tokens") or ():
            if not token["special"]:
                raise ValueError(f"{name}: added token {token['content']!r}: tensorflow-text finds none in a text; "
                                 "expected a tokenizer without, or tfhf/tokenizers/bert_wordpiece.py")
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        self.vocab_size = len(tokens)
        if sorted(model["vocab"].values()) != list(range(self.vocab_size)):
            raise ValueError(f"{name}: {self.vocab_size} tokens with ids from {min(model['vocab'].values())} to "
                             f"{max(model['vocab'].values())}, expected 0, 1, 2 ...")
        self._tokenizer = tensorflow_text().FastBertTokenizer(
            tokens, model["continuing_subword_prefix"], model["max_input_chars_per_word"], tf.int32,
            model["unk_token"], lower_case_nfd_strip_accents=settings["lowercase"])

    @classmethod
    def from_file(cls, tokenizer_json):
        """From the path of a tokenizer.json, local or gs://; see the class."""
        return cls(storage.read_bytes(tokenizer_json).decode("utf-8"), str(tokenizer_json))

    def encode(self, strings):
        """strings: string [batch], UTF-8 -> RaggedTensor int32 [batch, (tokens)], without [CLS] and [SEP]."""
        return self._tokenizer.tokenize(strings)
