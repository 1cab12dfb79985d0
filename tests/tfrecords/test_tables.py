"""Tables: every kind of delimiter, quotation, encoding and line end is read right, or refused with its row."""

import gzip
import json

import pytest

from tfhf.data.schema import RecordError
from tfrecords import tables
from tfrecords.tables import Table, read_lines

ROWS = [{"path": "a.wav", "text": "Hello, world"}, {"path": "b.wav", "text": 'she said "no"; why?'},
        {"path": "c.wav", "text": "नमस्ते ☕"}]


def read(path, content, **options):
    """-> (values of the good rows, problems of the others)"""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    rows = list(Table(path, ("path", "text"), **options).rows())
    problems = [f"{row.where}: {row.problem}" for row in rows if row.problem]
    return [row.values for row in rows if not row.problem], problems


def quoted(delimiter, end="\n"):
    lines = [f'{row["path"]}{delimiter}"' + row["text"].replace('"', '""') + '"' for row in ROWS]
    return end.join([f"path{delimiter}text", *lines, ""])


@pytest.mark.parametrize("name, content", [
    ("a.csv", quoted(",")),
    ("a.csv", quoted(",", "\r\n")),
    ("a.csv", quoted(",", "\r")),
    ("a.csv", "\ufeff" + quoted(",")),
    ("A.CSV", quoted(";")),
    ("a.csv", "sep=;\r\n" + quoted(";", "\r\n")),
    ("a.csv", quoted("|")),
    ("a.csv", quoted("\t").encode("utf-16")),       # what Excel calls Unicode text
    ("a.tsv", quoted("\t").encode("utf-16-be").join((b"\xfe\xff", b""))),
    ("a.tsv", quoted("\t")),
    ("a.tsv", quoted("\t").replace('"Hello, world"', "Hello, world")),
    ("a.csv.gz", gzip.compress(quoted(",").encode())),
    ("a.csv", gzip.compress(quoted(",").encode())),   # compressed, though its name does not say so
    ("a.csv", quoted(",") + "\n,\n   \n"),
    ("a.jsonl", "\n".join(map(json.dumps, ROWS))),
    ("a.ndjson", "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
    ("a.json", "\n".join(map(json.dumps, ROWS))),
    ("a.json", json.dumps(ROWS)),
    ("a.json", json.dumps({"version": "1", "data": ROWS}, indent=2)),
    ("a.json.gz", gzip.compress(json.dumps({"data": ROWS}).encode("utf-16"))),
])
def test_the_same_rows_in_every_form(tmp_path, name, content):
    assert read(tmp_path / name, content) == (ROWS, [])


def test_unquoted_tabs_keep_every_quotation_mark(tmp_path):
    lines = ["path\ttext", 'a\t"bare', 'b\tsays "yes"', 'c\t"whole"', 'd\t5" and 6"']
    good, bad = read(tmp_path / "a.tsv", "\n".join(lines))
    assert [row["text"] for row in good] == ['"bare', 'says "yes"', '"whole"', '5" and 6"'] and not bad
    good, bad = read(tmp_path / "a.tsv", "\n".join([*lines, 'e\t"he said ""no"""']))
    assert len(good) == 4 and "row 5: " in bad[0] and "is quoted as in CSV, but other rows have bare" in bad[0]


def test_cells_of_several_lines(tmp_path):
    good, bad = read(tmp_path / "a.csv", 'path,text\na,"one\n\ntwo, three"\nb,four\n')
    assert good == [{"path": "a", "text": "one\n\ntwo, three"}, {"path": "b", "text": "four"}] and not bad
    good, bad = read(tmp_path / "a.tsv", 'path\ttext\na\t"one\ntwo"\nb\tfour\n')
    assert good[0]["text"] == "one\ntwo" and not bad


@pytest.mark.parametrize("content, words", [
    ('path,text\na,"never closed\nb,x\nc,y\n', "row 1: a quotation mark that is not closed"),
    ('path,text\na,"never closed\nb,"x"\nc,y\n', "row 1: a quotation mark that is not closed"),
    ('path,text\na,"closed" too early\nb,x\nc,y\n', "row 1: cannot be parsed as CSV"),
    ('path,text\na, "x"\nb,x\nc,y\n', "row 1: white space before the quotation mark"),
    ("path,text\na,x,\nb,x\nc,y\n", "row 1: 3 cells, expected 2"),
    ("path,text\na\nb,x\nc,y\n", "row 1: 1 cells, expected 2"),
    ("path,text\npath,text\nb,x\nc,y\n", "row 1: repeats the header"),
    (b"path,text\na,\xff\nb,x\nc,y\n", "row 1: not UTF-8: byte 0xff"),
    (b'path,text\na,"x\n\xff"\nb,x\nc,y\n', "row 1: a quotation mark"),
    (b"path,text\na,\x00\nb,x\nc,y\n", "row 1: holds a NUL byte"),
])
def test_a_bad_row_takes_no_other_with_it(tmp_path, content, words):
    good, bad = read(tmp_path / "a.csv", content)
    assert [row["path"] for row in good] == ["b", "c"] and f"a.csv, {words}" in bad[0]


def test_a_quotation_mark_that_another_row_closes(tmp_path):
    content = 'path,text\na.wav,"Hello\nb.wav,World"\nc.wav,x\n'
    good, bad = read(tmp_path / "a.csv", content, a_row=lambda cells: cells["path"].endswith(".wav"))
    assert [row["path"] for row in good] == ["c.wav"] and "line 3 looks like a row, but lies inside it" in bad[0]


@pytest.mark.parametrize("line, words", [
    ('{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
    ('{"text": "a"', "not JSON"),
    ("[1]", "a list, expected an object"),
    ("[" * 100_000, "nested too deep"),
    ('{"n": ' + "9" * 5000 + "}", "not JSON"),
])
def test_bad_lines_of_json(tmp_path, line, words):
    good, bad = read(tmp_path / "a.jsonl", f'{{"text": "one\u2028line\x85"}}\n{line}\n{{"text": "two"}}\n')
    assert [row["text"] for row in good] == ["one\u2028line\x85", "two"]
    assert "a.jsonl, line 2: " in bad[0] and words in bad[0]


@pytest.mark.parametrize("name, content, words", [
    ("a.csv", "", "no rows, not even a header"),
    ("a.tsv", "\n \n", "no rows, not even a header"),
    ("a.csv", b"\xff\xfea", "not UTF-16"),
    ("a.csv", 'path,"text\n', "a quotation mark that is not closed"),
    ("a.json", '{"a": {"b": 1},\n "c": [1]}', "an object of ..a., .c.., expected a list of objects"),
    ("a.json", '[{"a": 1},\n', "not JSON"),
    ("a.csv.gz", gzip.compress(quoted(",").encode() * 100)[:-9], "a .gz that is damaged or cut"),
    ("a.csv.gz", quoted(","), "a .gz that is damaged or cut: it does not begin as one"),
    ("a.xlsx", "PK", "unknown kind of table"),
])
def test_tables_that_are_none(tmp_path, name, content, words):
    with pytest.raises(RecordError, match=words):
        read(tmp_path / name, content)


def test_a_missing_table_and_a_folder(tmp_path):
    with pytest.raises(RecordError, match="a.csv: no such file"):
        Table(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(RecordError, match="b.csv: cannot be read: Is a directory"):
        Table(tmp_path / "b.csv")


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    with pytest.raises(RecordError, match="line 2: more than"):
        read(tmp_path / "a.jsonl", "{}\n" + " " * 2000)
    monkeypatch.setattr(tables, "_BOMB_BYTES", 100_000)
    with pytest.raises(RecordError, match="is it a bomb"):
        read(tmp_path / "a.jsonl.gz", gzip.compress(b" \n" * 1_000_000))
    monkeypatch.setattr(tables, "MAX_JSON", 1000)
    with pytest.raises(RecordError, match="one JSON document of more than"):
        read(tmp_path / "a.json", json.dumps([{"text": "x" * 30}] * 50, indent=1))


def test_long_cells_are_no_error(tmp_path):
    good, bad = read(tmp_path / "a.csv", f'path,text\na,"{"word " * 100_000}"\n')
    assert len(good[0]["text"]) == 500_000 and not bad


def test_names_of_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(" Path , Text,text,n,n\na,b,c,1,2\n")
    table = Table(path)
    assert table.columns == ["Path", "Text", "text", "n", "n"]
    assert (table.column("path"), table.column("text"), table.column("TEXTS")) == ("Path", "text", None)
    with pytest.raises(RecordError, match="the column 'n' occurs 2 times"):
        table.column("N")


def test_lines_are_split_at_line_ends_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\u2028still one\x0b\x1e\r\ntwo\n".encode())
    assert [line.text for line in read_lines(path)] == ["one\u2028still one\x0b\x1e\r\n", "two\n"]
