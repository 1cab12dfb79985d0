"""Trained tokenizers against the `tokenizers` library by hand, and the textbook's merges."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.tokenizers.corpus import PROSE, mixed_lines
from tfhf.data.schema import SPEECH_TEXT, Field, RecordType
from tfhf.data.writing import Dataset, write_split
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.training import texts_of_files, texts_of_records, train_tokenizer

TEXTS = PROSE + [line for line in mixed_lines(3000, seed=4) if line.isascii()]


def _merges(path):
    return [tuple(pair) for pair in json.loads(path.read_text("utf-8"))["model"]["merges"]]


def test_the_textbook_merges(tmp_path):
    """Sennrich et al. 2016, section 3.2: of low 5, lower 2, newest 6 and widest 3 times, by frequency 9, 9, 7, 7. An
    unknown "lowest" is then "low" and "est"."""
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    texts = [word for word, count in words.items() for _ in range(count)]
    path = tmp_path / "tokenizer.json"
    train_tokenizer(texts, path, "bpe", 256 + 4)
    assert _merges(path) == [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w")]
    assert ByteLevelBPE.from_file(path).encode(["lowest"]).to_list() == [[259, 257]]   # low, est
    train_tokenizer(texts, path, "bpe", 256 + 7)   # then 6 times: newest, by three merges of whichever order
    assert "".join(_merges(path)[-1]) == "newest"
    # With a mark for the end of a word, as in the paper.
    train_tokenizer(texts, path, "bpe", 40, pre_tokenizer="whitespace_split", end_of_word_suffix="</w>")
    assert _merges(path)[:2] == [("e", "s"), ("es", "t</w>")]


def test_bpe_equals_the_library(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS, path, "bpe", 900, special_tokens=["<|endoftext|>", "<pad>"], min_frequency=2)
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder, library.post_processor = decoders.ByteLevel(), processors.ByteLevel()
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=900, min_frequency=2, special_tokens=["<|endoftext|>", "<pad>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    assert json.loads(path.read_text("utf-8")) == json.loads(library.to_str())


def test_wordpiece_equals_the_library(tmp_path):
    path, special = tmp_path / "tokenizer.json", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    train_tokenizer(TEXTS, path, "wordpiece", 1800, special_tokens=special, post_processor=template)
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=1800, special_tokens=special,
                                                                 show_progress=False))
    library.post_processor = processors.TemplateProcessing(single=template[0], pair=template[1],
                                                           special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    ours, theirs = json.loads(path.read_text("utf-8")), json.loads(library.to_str())
    # The library breaks ties by the order of a hash map: two runs of it on these texts differ in some tens of tokens.
    vocabularies = [set(one["model"].pop("vocab")) for one in (ours, theirs)]
    assert ours == theirs
    assert len(vocabularies[0]) == len(vocabularies[1]) == 1800 and len(vocabularies[0] - vocabularies[1]) < 90
    row = Tokenizer.from_file(str(path)).encode("one", "two")
    assert (row.tokens[0], row.tokens.count("[SEP]"), row.type_ids[-1]) == ("[CLS]", 2, 1)


def test_unigram_equals_the_library(tmp_path):
    path, special = tmp_path / "tokenizer.json", ["<pad>", "</s>", "<unk>"]
    train_tokenizer(PROSE * 3, path, "unigram", 300, special_tokens=special, post_processor="$A </s>")
    library = Tokenizer(models.Unigram())
    library.normalizer, library.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    library.train_from_iterator(PROSE * 3, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False))
    ours = Tokenizer.from_file(str(path))
    # Pieces, and their scores but for the library's own order of equal ones, which it keeps 1e-4 apart.
    scores = [dict(json.loads(one.to_str())["model"]["vocab"]) for one in (ours, library)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert ours.encode(PROSE[0]).tokens == library.encode(PROSE[0]).tokens + ["</s>"]


def test_dropout_varies_and_the_rest_does_not(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_tokenizer(PROSE * 3, path, "bpe", 500, dropout=0.5)
    tokenizer = Tokenizer.from_file(str(path))
    assert json.loads(path.read_text("utf-8"))["model"]["dropout"] == 0.5
    different = {tuple(tokenizer.encode(PROSE[1]).ids) for _ in range(10)}
    assert len(different) > 1 and {tokenizer.decode(ids) for ids in different} == {PROSE[1]}


def test_from_files_and_from_records(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(PROSE) + "\n", encoding="utf-8")
    direct, files, records = (
        tmp_path / "new" / name for name in ("direct.json", "files.json", "records.json"))
    lines = [line + "\n" for line in PROSE]
    expected = train_tokenizer(lines, direct, "bpe", 400)
    assert train_tokenizer(texts_of_files(tmp_path / "a.txt"), files, "bpe", 400) == expected
    text = RecordType("text_of_a_test", 1, (Field("id", "string"), Field("text", "string"), Field("length", "int")),
                      "length")

    class Lines(Dataset):
        """The lines as records."""

        name, record_type = "lines", text

        def options(self, split):
            return {}

        def examples(self, split, start=0):
            return ({"id": f"{number}", "text": line, "length": len(line)} for number, line in enumerate(lines[start:]))

        def load(self, item):
            return item

    write_split(Lines(), str(tmp_path / "records"), "train", log=lambda line: None)
    assert train_tokenizer(texts_of_records(tmp_path / "records" / "train", text), records, "bpe", 400) == expected
    assert direct.read_bytes() == files.read_bytes() == records.read_bytes()
    assert fingerprint(files.read_bytes()) == expected
    with pytest.raises(ValueError, match="no string field 'audio'"):
        next(texts_of_records(tmp_path, SPEECH_TEXT, "audio"))


@pytest.mark.parametrize("arguments, message", [
    ({"model": "words"}, "model: 'words', expected one of"),
    ({"normalizer": "nfx"}, r"normalizer: unknown \['nfx'\]"),
    ({"pre_tokenizer": ("bert", "words")}, r"pre_tokenizer: unknown \['words'\]"),
    ({"dropout": 1.5}, r"dropout: 1.5 for bpe"),
    ({"model": "unigram", "dropout": 0.1}, "dropout: 0.1 for unigram"),
    ({"post_processor": "[CLS] $A"}, r"post_processor: \['\[CLS\]'\] are no special tokens"),
    ({"vocab_size": 100}, "vocab_size: 100, but the special tokens and the alphabet alone are 256"),
    ({"model": "unigram", "vocab_size": 5}, "unigram with vocab_size 5"),
])
def test_refusals(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(PROSE, tmp_path / "tokenizer.json", **{"vocab_size": 300, **arguments})
    assert not (tmp_path / "tokenizer.json").exists()


def test_bad_corpora(tmp_path):
    with pytest.raises(ValueError, match="no text to train on: 2 texts, all empty"):
        train_tokenizer(["", ""], tmp_path / "tokenizer.json", "bpe", 300)
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(ValueError, match="bad.txt, line 2: not UTF-8"):
        list(texts_of_files([tmp_path / "bad.txt"]))
