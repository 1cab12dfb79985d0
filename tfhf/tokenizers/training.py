"""Trains BPE, WordPiece and Unigram tokenizers on any corpus, over the `tokenizers` library, into a tokenizer.json.

Sennrich et al. 2016 (BPE), Schuster and Nakajima 2012 (WordPiece), Kudo 2018 (Unigram), Provilkov et al. 2020 (BPE
dropout).
"""

import dataclasses
import os
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tfhf.data import storage
from tfhf.data.records import RecordReader
from tfhf.tokenizers.fingerprint import fingerprint

NORMALIZERS = {
    "nfc": normalizers.NFC, "nfd": normalizers.NFD, "nfkc": normalizers.NFKC, "nfkd": normalizers.NFKD,
    "lowercase": normalizers.Lowercase, "strip_accents": normalizers.StripAccents, "strip": normalizers.Strip,
    "nmt": normalizers.Nmt, "bert": normalizers.BertNormalizer,
    "bert_cased": lambda: normalizers.BertNormalizer(lowercase=False)}
PRE_TOKENIZERS = {
    "byte_level": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), "bert": pre_tokenizers.BertPreTokenizer,
    "metaspace": pre_tokenizers.Metaspace, "whitespace": pre_tokenizers.Whitespace,
    "whitespace_split": pre_tokenizers.WhitespaceSplit, "punctuation": pre_tokenizers.Punctuation,
    "digits": lambda: pre_tokenizers.Digits(individual_digits=True)}
DECODERS = {"byte_level": decoders.ByteLevel, "wordpiece": decoders.WordPiece, "metaspace": decoders.Metaspace}


@dataclasses.dataclass(frozen=True)
class _Family:
    """What a model is and, for what a caller leaves at None, the published choice."""

    model: type
    trainer: type
    normalizer: tuple
    pre_tokenizer: tuple
    decoder: str
    unk_token: str | None


# GPT-2's, BERT's and T5's settings.
_FAMILIES = {
    "bpe": _Family(models.BPE, trainers.BpeTrainer, (), ("byte_level",), "byte_level", None),
    "wordpiece": _Family(models.WordPiece, trainers.WordPieceTrainer, ("bert",), ("bert",), "wordpiece", "[UNK]"),
    "unigram": _Family(models.Unigram, trainers.UnigramTrainer, ("nfkc",), ("metaspace",), "metaspace", "<unk>"),
}


def train_tokenizer(texts, path, model="bpe", vocab_size=30_000, *, normalizer=None, pre_tokenizer=None,
                    post_processor=None, decoder=None, special_tokens=(), unk_token=None, dropout=None, **options):
    """Trains a tokenizer and writes it.

    Args:
        texts: iterable of str (`texts_of_files`, `texts_of_records`). It is read once.
        path: of the tokenizer.json to write, local or gs://.
        model: "bpe", "wordpiece" or "unigram".
        vocab_size: tokens in all, the special ones included. A small corpus may give fewer.
        normalizer, pre_tokenizer: names of `NORMALIZERS` and `PRE_TOKENIZERS`, one or several in order, or an object
            of the `tokenizers` library; () for none. None: what GPT-2 (no normaliser, byte-level words), BERT or T5
            (NFKC, "▁" for blanks) have.
        post_processor: the template of a text and, if wanted, of a pair: "[CLS] $A [SEP]" or
            ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"), made of special tokens; or an object of the library.
        decoder: "byte_level", "wordpiece", "metaspace" or an object. None: the model's own.
        special_tokens: they take the first ids, in order.
        unk_token: None: "[UNK]" for WordPiece, "<unk>" for Unigram (added to the special tokens where it is missing);
            byte-level BPE needs none.
        dropout: of BPE, the chance of a merge to be left out whenever a text is encoded; in (0, 1).
        options: of the library's trainer: min_frequency, limit_alphabet, initial_alphabet, max_token_length ...

    Returns:
        The fingerprint of the tokenizer, str.

    Raises:
        ValueError: an unknown name, dropout where there is none or outside of (0, 1), a template with a token that is
            not special, no text at all, or a vocabulary smaller than its alphabet.
        TypeError: an option that the trainer does not have.
    """
    if model not in _FAMILIES:
        raise ValueError(f"model: {model!r}, expected one of {sorted(_FAMILIES)}")
    if dropout is not None and (model != "bpe" or not 0 < dropout < 1):
        raise ValueError(f"dropout: {dropout} for {model}, expected None, or a chance in (0, 1) for bpe")
    family = _FAMILIES[model]
    words = family.pre_tokenizer if pre_tokenizer is None else pre_tokenizer
    byte_level = "byte_level" in ([words] if isinstance(words, str) else words if isinstance(words, tuple) else [])
    unk_token = unk_token or family.unk_token
    special = list(special_tokens)
    if unk_token and unk_token not in special:
        special.insert(0, unk_token)
    arguments = {"unk_token": unk_token} if model == "wordpiece" or (model == "bpe" and unk_token) else {}
    tokenizer = Tokenizer(family.model(**arguments, **({"dropout": dropout} if dropout else {})))
    tokenizer.normalizer = _chain(family.normalizer if normalizer is None else normalizer, NORMALIZERS,
                                  normalizers.Sequence, "normalizer")
    tokenizer.pre_tokenizer = _chain(words, PRE_TOKENIZERS, pre_tokenizers.Sequence, "pre_tokenizer")
    tokenizer.decoder = _chain(_own_decoder(family, byte_level) if decoder is None else decoder, DECODERS,
                               decoders.Sequence, "decoder")
    if byte_level:   # every text can be spelt, whatever the corpus holds
        options.setdefault("initial_alphabet", sorted(pre_tokenizers.ByteLevel.alphabet()))
    if model == "unigram":
        options["unk_token"] = unk_token
    trainer = family.trainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, **options)
    texts = _Counted(texts)
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:   # the library raises nothing more special; an error of `texts` passes through it too
        raise ValueError(f"{model} with vocab_size {vocab_size}, after {texts.count} texts: {error}") from error
    if not texts.characters:
        raise ValueError(f"no text to train on: {texts.count} texts, all empty")
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(f"vocab_size: {vocab_size}, but the special tokens and the alphabet alone are "
                         f"{tokenizer.get_vocab_size()}")
    tokenizer.post_processor = _post_processor(post_processor, tokenizer, special, byte_level)
    content = tokenizer.to_str(pretty=True)
    storage.make_folder(os.path.dirname(os.fspath(path)) or ".")
    storage.write_bytes(path, content.encode("utf-8"))
    return fingerprint(content)


def texts_of_files(paths):
    """Yields the lines of text files, UTF-8, each with its end of line: line ends are text to a language model.

    Raises:
        ValueError: a file that is not UTF-8, with the line.
    """
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}, line {number}: not UTF-8: {error}") from error


def texts_of_records(folder, record_type, field="text"):
    """Yields one string field of each record of a split's folder, in order.

    Args:
        record_type: of the records, with that field.

    Raises:
        ValueError: the type has no such string field.
    """
    if not any(each.name == field and each.kind == "string" for each in record_type.fields):
        raise ValueError(f"record type {record_type.name!r} has no string field {field!r}; it has "
                         f"{[each.name for each in record_type.fields]}")
    with RecordReader(folder, record_type) as reader:
        for number in range(len(reader)):
            yield record_type.decode(reader.read(number))[field].numpy().decode("utf-8")


class _Counted:
    """Counts what goes through: the trainers take an empty corpus without a word."""

    def __init__(self, texts):
        self._texts, self.count, self.characters = texts, 0, 0

    def __iter__(self):
        for text in self._texts:
            self.count, self.characters = self.count + 1, self.characters + len(text)
            yield text


def _chain(wanted, known, sequence, what):
    """An object of the library from names; None where there are none."""
    if not isinstance(wanted, (str, tuple, list)):
        return wanted
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{what}: unknown {unknown}, expected some of {sorted(known)}")
    built = [known[name]() for name in names]
    return None if not built else built[0] if len(built) == 1 else sequence(built)


def _own_decoder(family, byte_level):
    if family.decoder == "byte_level" and not byte_level:
        return ()
    return "byte_level" if byte_level else family.decoder


def _post_processor(wanted, tokenizer, special, byte_level):
    if wanted is None:
        return processors.ByteLevel() if byte_level else None
    if not isinstance(wanted, (str, tuple)):
        return wanted
    templates = (wanted,) if isinstance(wanted, str) else wanted
    used = {part.partition(":")[0] for template in templates for part in template.split()}
    unknown = sorted(part for part in used if not part.startswith("$") and part not in special)
    if unknown:
        raise ValueError(f"post_processor: {unknown} are no special tokens, expected some of {special}, $A and $B")
    ids = [(token, tokenizer.token_to_id(token)) for token in special if token in used]
    return processors.TemplateProcessing(single=templates[0], pair=templates[1] if len(templates) > 1 else None,
                                         special_tokens=ids)
