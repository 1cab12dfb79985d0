"""The text writer: files, JSON lines and Parquet into token rows and labelled texts; and what it refuses."""

import argparse
import gzip
import json
import re

import numpy as np
import pytest

import tfrecords.__main__ as command
from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import TEXT_LABEL, TOKENS, RecordError
from tfhf.tokenizers.fingerprint import fingerprint
from tfrecords.text import TextFiles, TokenRows, add_arguments, open_dataset

PARAGRAPHS = ["In the beginning was the word.", "And the word was with them,\nand they read it.",
              "नमस्ते <|endoftext|> ☕"]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n\n".join(PARAGRAPHS) + "\n", "utf-8")
    return path


def _texts(*files, split="train", **options):
    return [text for _, text in TextFiles([str(file) for file in files], **options).texts(split)]


def test_documents_of_a_text_file(book):
    assert _texts(book) == [book.read_text("utf-8")]
    assert _texts(book, documents="paragraph") == PARAGRAPHS
    assert _texts(book, documents="line") == "\n".join(PARAGRAPHS).split("\n")


def test_a_written_split_says_its_tokenizer_and_gives_the_text_back(book, tmp_path, capfd):
    line = ["text", "--files", str(book), "--documents", "paragraph", "--train-tokenizer", "300", "--length", "32"]
    assert command.main([*line, "--out", str(tmp_path / "out")]) == 0
    content = (tmp_path / "out/tokenizer.json").read_text("utf-8")
    manifest = read_manifest(tmp_path / "out/train")
    assert manifest["options"]["tokenizer"] == fingerprint(content) and manifest["schema"]["name"] == "tokens"
    from tokenizers import Tokenizer

    tokenizer, end = Tokenizer.from_str(content), manifest["options"]["end_token_id"]
    assert tokenizer.id_to_token(end) == "<|endoftext|>"
    pieces = []
    with RecordReader(tmp_path / "out/train", TOKENS) as reader:
        for number in range(len(reader)):
            row = {key: value.numpy() for key, value in TOKENS.decode(reader.read(number)).items()}
            for segment in range(1, row["segment_ids"].max() + 1):
                pieces.append(row["input_ids"][row["segment_ids"] == segment].tolist())
    whole = sorted(PARAGRAPHS)
    # A paragraph longer than a row is cut: joined by the end tokens that only its last piece has.
    assert sum(piece.count(end) for piece in pieces) == 3 and all(end not in piece[:-1] for piece in pieces)
    for text in whole:
        ids = tokenizer.encode(text[:10].replace("<", ""), add_special_tokens=False).ids
        assert any(piece[:2] == ids[:2] for piece in pieces)
    # The same again is complete; another tokenizer in the same place is refused.
    assert command.main([*line, "--out", str(tmp_path / "out")]) == 0
    line[line.index("300")] = "290"
    assert command.main([*line, "--out", str(tmp_path / "out")]) == 1
    assert "is another tokenizer, of fingerprint" in capfd.readouterr().err


def test_the_end_token_inside_a_text_is_text(book, tmp_path):
    from tfhf.tokenizers.training import train_tokenizer

    path = tmp_path / "tokenizer.json"
    train_tokenizer(PARAGRAPHS, path, "bpe", 300, special_tokens=("<|endoftext|>",))
    rows = TokenRows(TextFiles([str(book)]), path.read_text("utf-8"), 4096)
    row, = rows.examples("train")
    assert (row["input_ids"] == 0).sum() == 1 and row["input_ids"][-1] == 0
    assert list(rows.examples("train", 1)) == []
    with pytest.raises(RecordError, match="--end-token '</s>': the tokenizer has no such token"):
        TokenRows(TextFiles([str(book)]), path.read_text("utf-8"), 64, end_token="</s>")


def _rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_labelled_json_lines_and_parquet(tmp_path):
    rows = [{"text": "good ☕", "stars": "up"}, {"text": "bad", "stars": "down"}, {"text": " ", "stars": "up"}]
    files = [_rows(tmp_path / "a.jsonl", rows)]
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, of the extra hf")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    files.append(tmp_path / "b.parquet")
    line = ["text", "--files", *map(str, files), "--label-field", "stars", "--classes", "down,up",
            "--out", str(tmp_path / "out")]
    assert command.main(line) == 0
    with RecordReader(tmp_path / "out/train", TEXT_LABEL) as reader:
        found = [TEXT_LABEL.decode(reader.read(number)) for number in range(len(reader))]
    assert [(row["text"].numpy().decode(), int(row["label"]), int(row["length"])) for row in found] == [
        ("good ☕", 1, 8), ("bad", 0, 3)] * 2   # the blank one is left out
    assert [row["id"].numpy() for row in found][2:] == [b"b.parquet:0", b"b.parquet:1"]


def test_held_out_documents_are_a_fixed_share(tmp_path):
    path = _rows(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(400)])
    both = [_texts(path, split=split, held_out=0.1) for split in ("train", "validation")]
    assert sorted(both[0] + both[1]) == sorted(f"text {i}" for i in range(400)) and 20 < len(both[1]) < 60


@pytest.mark.parametrize("content, words", [
    (b'{"text": "a", "label": 1}\n{"text"', "a.jsonl, line 2: not JSON"),
    (b'{"text": "a", "label": 1}\n[1]', "line 2: a list, expected an object"),
    (b'{"label": 1}', "line 1: has no 'text', it has ..label.."),
    (b'{"text": 3, "label": 1}', "line 1: 'text' is a int, expected a string"),
    (b'{"text": "a", "label": "x"}', "a.jsonl:0: the label is 'x', expected a number from 0 on, or --classes"),
    (b'{"text": "a\xff"}', "a.jsonl, line 1: not UTF-8: byte 0xff"),
])
def test_what_is_wrong_in_a_file_is_named(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_bytes(content)
    dataset = TextFiles([str(tmp_path / "a.jsonl")], label_field="label")
    with pytest.raises(RecordError, match=words):
        for item in dataset.examples("train"):
            dataset.load(item)


def _options(tmp_path, *words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(words)
    arguments.out, arguments.overwrite, arguments.skip_bad = str(tmp_path / "out"), False, 0
    return arguments


def test_options_that_do_not_fit(book, tmp_path):
    for words, message in (
            (["--files", str(book)], "expected one of --tokenizer FILE and --train-tokenizer N"),
            (["--files", "nothing.txt"], "nothing.txt: expected a file that exists, one of .txt, "),
            (["--files", str(book), "--label-field", "x"], "a .txt has no field 'x'"),
            (["--files", f"validation={book}", "--held-out", "0.5"], "files for train, and none for validation")):
        with pytest.raises(RecordError, match=message):
            open_dataset(_options(tmp_path, *words))
    assert np.shape(PARAGRAPHS) == (3,)


@pytest.mark.parametrize("name, content", [
    ("a.csv", 'Text,stars\n"good, ""very"" good",1\nbad\u2028film,0\n'),
    ("a.csv", '\ufefftext;stars\r\n"good, ""very"" good";1\r\nbad\u2028film;0\r\n'),
    ("a.tsv", 'text\tstars\ngood, "very" good\t1\nbad\u2028film\t0\n'),
    ("a.json", '[{"text": "good, \\"very\\" good", "stars": 1}, {"text": "bad\\u2028film", "stars": 0}]'),
    ("a.jsonl", '{"text": "good, \\"very\\" good", "stars": 1}\n{"text": "bad\u2028film", "stars": 0}\n'),
])
@pytest.mark.parametrize("packed", [False, True])
def test_labelled_texts_of_every_kind_of_table(tmp_path, name, content, packed):
    data = content.encode("utf-8")
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    dataset = TextFiles([str(path)], label_field="stars")
    found = [dataset.load(item) for item in dataset.examples("train")]
    assert [(one["text"], one["label"]) for one in found] == [('good, "very" good', 1), ("bad\u2028film", 0)]


def _skipping(tmp_path, *words):
    """-> (ids and texts that were written, reasons of those that were skipped)"""
    out = tmp_path / "out"
    assert command.main(["text", "--label-field", "label", "--out", str(out), "--skip-bad", "9", *words]) == 0
    with RecordReader(out / "train", TEXT_LABEL) as reader:
        found = [TEXT_LABEL.decode(reader.read(number)) for number in range(len(reader))]
    return [row["text"].numpy().decode() for row in found], [why for _, why in read_manifest(out / "train")["skipped"]]


def test_bad_rows_are_skipped_and_listed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "label": 1}\n{"text": "cut \\ud83d", "label": 0}\n{"text": 3, "label": 0}\n{"a\n'
                    '{"text": "two", "label": "x"}\n{"text": "three", "label": 2}\n')
    texts, reasons = _skipping(tmp_path, "--files", str(path))
    assert texts == ["one", "three"] and len(reasons) == 4 and "a.jsonl, line 2: text: holds" in reasons[0]
    listed = [json.loads(line) for line in (tmp_path / "out/train/skipped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in listed] == [f"a.jsonl:{number}" for number in (1, 2, 3, 4)]
    assert listed[0]["source"] == f"{path}, line 2"


def test_bad_rows_of_csv_are_skipped_and_listed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"never closed,1\nHello, world,1\nfine,0\n,1\n"also ""fine""",1\nno label,\n')
    texts, reasons = _skipping(tmp_path, "--files", str(path))
    assert texts == ["fine", 'also "fine"'] and len(reasons) == 3
    assert "row 1: a quotation mark" in reasons[0] and "row 2: 3 cells" in reasons[1] and "a.csv:5" in reasons[2]


def test_documents_that_are_no_text_are_skipped_in_token_rows_too(book, tmp_path, capfd):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "one and one"}\n{"text": "cut \\ud83d"}\n{"text": "two"}\n')
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9\n")
    line = ["text", "--train-tokenizer", "300", "--length", "16"]
    for file, words in ((path, "bad.jsonl, line 2: text: holds"), (latin, "latin.txt, line 1: not UTF-8: byte 0xe9")):
        assert command.main([*line, "--files", str(file), "--out", str(tmp_path / "no")]) == 1
        assert words in capfd.readouterr().err.splitlines()[-1]
    out = tmp_path / "out"
    assert command.main([*line, "--files", str(path), str(latin), "--out", str(out), "--skip-bad", "2"]) == 0
    assert [name for name, _ in read_manifest(out / "train")["skipped"]] == ["bad.jsonl:1", "latin.txt:0"]
    with RecordReader(out / "train", TOKENS) as reader:
        assert reader.manifest["count"] == 1


@pytest.mark.parametrize("arguments, words", [
    (["--train-tokenizer", "300"], "--train-tokenizer 300: "),
    (["--tokenizer", "nothing.json"], "--tokenizer nothing.json: cannot be read"),
])
def test_an_empty_file_and_a_missing_tokenizer_are_one_line(tmp_path, capfd, arguments, words):
    (tmp_path / "empty.txt").write_text("")
    line = ["text", "--files", str(tmp_path / "empty.txt"), "--length", "16", *arguments]
    assert command.main([*line, "--out", str(tmp_path / "out")]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {words}")


def test_exchanged_labels_of_the_same_size_are_reported(tmp_path, capfd):
    path = _rows(tmp_path / "a.jsonl", [{"text": "good", "stars": 1}, {"text": "bad!", "stars": 0}])
    line = ["text", "--files", str(path), "--label-field", "stars", "--out", str(tmp_path / "out")]
    assert command.main(line) == 0 and command.main(line) == 0
    path.write_text(path.read_text().replace("1", "2").replace("0", "1").replace("2", "0"))
    assert command.main(line) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert re.search(r"a.jsonl \(\d+ bytes, sha256 \w{8}…\), now \(\d+ bytes, sha256 \w{8}…\)", error)
    assert error.endswith(f"tfhf records {' '.join(line)} --overwrite")
    assert command.main([*line, "--overwrite"]) == 0


def test_files_of_one_name_have_different_ids(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        _rows(tmp_path / folder / "a.jsonl", [{"text": folder}])
    dataset = TextFiles([str(tmp_path / "x" / "a.jsonl"), str(tmp_path / "y" / "a.jsonl")])
    assert [name for name, _ in dataset.texts("train")] == ["x/a.jsonl:0", "y/a.jsonl:0"]
