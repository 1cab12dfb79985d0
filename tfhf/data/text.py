"""Texts into the examples of text records: documents cut and packed into rows of tokens, sentences with their label."""

import itertools

import numpy as np

from tfhf.data import storage
from tfhf.data.packing import pack, row_layout
from tfhf.data.schema import RecordError
from tfhf.data.shards import read_manifest
from tfhf.tokenizers.fingerprint import check_fingerprint

# Documents that are packed together: enough to fill rows to the brim, few enough to lie in memory.
DEFAULT_WINDOW = 10_000
# Where the manifest keeps the fingerprint of the tokenizer that token records were made with.
TOKENIZER_OPTION = "tokenizer"


def read_text(path):
    """The content of a text file, local or gs://, as str; RecordError where it is not UTF-8."""
    data = storage.read_bytes(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text in UTF-8: byte {data[error.start]:#04x} at {error.start}") from error


def text_label(identity, text, label):
    """A TEXT_LABEL example."""
    return {"id": identity, "text": text, "label": label, "length": len(text.encode("utf-8"))}


def token_rows(documents, row_length, packed=True, window=DEFAULT_WINDOW):
    """Documents -> TOKENS examples of at most row_length tokens, in a fixed order.

    A longer document is cut; each piece is a segment of its own. The pieces of `window` documents at a time are packed
    by best fit (tfhf/data/packing.py); unpacked, each is a row.

    Args:
      documents: iterable of (id, ids int [n]), the id unique; an empty one gives nothing.
      row_length: tokens, 2 or more: one alone predicts nothing.
    """
    if row_length < 2:
        raise RecordError(f"rows of {row_length} tokens, expected 2 or more")
    documents = iter(documents)
    while chunk := list(itertools.islice(documents, window)):
        pieces = [(f"{name}:{begin}", np.asarray(ids[begin:begin + row_length], np.int32))
                  for name, ids in chunk for begin in range(0, len(ids), row_length)]
        lengths = [len(ids) for _, ids in pieces]
        if not pieces:
            continue
        if packed:
            packing = pack(lengths, row_length)
            rows = [packing.row(row).tolist() for row in range(len(packing))]
        else:
            rows = [[number] for number in range(len(pieces))]
        for row in rows:
            used = sum(lengths[number] for number in row)
            segment_ids, _ = row_layout([lengths[number] for number in row], used)
            yield {"id": pieces[row[0]][0], "input_ids": np.concatenate([pieces[number][1] for number in row]),
                   "segment_ids": segment_ids, "length": used}


def check_tokenizer(manifest, fingerprint, folder):
    """Raises FingerprintError unless the manifest of TOKENS records names the tokenizer of this fingerprint."""
    check_fingerprint(manifest.get("options", {}).get(TOKENIZER_OPTION), fingerprint, f"{folder}: its token records")


def packing_waste(folder, row_length):
    """Share of padding, 0 to 1, in a split's folder of TOKENS records when all rows are row_length long."""
    manifest = read_manifest(folder)
    return 1.0 - manifest["length"]["sum"] / (manifest["count"] * row_length)
