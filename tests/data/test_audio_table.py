"""The table of docs/audio_formats.md: the files of tests/audio_files.py as records, `transcribe` and exports see them.

Where it differs, TFHF_WRITE_TABLE=1 writes the page anew.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.audio_files import FORMATS, encoder, made
from tfhf.data import audio_decoders, audio_graph
from tfhf.data.audio import AudioError, load_audio
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.writing import Dataset
from tfhf.models.whisper import long_form

PAGE = Path(__file__).resolve().parents[2] / "docs" / "audio_formats.md"
READ, REFUSED = "read", "refused"
_export = tf.function(lambda wav: audio_graph.decode_with_lengths(wav, 64000),
                      input_signature=[tf.TensorSpec([None], tf.string)])


def of_records(path, kind):
    """The samples as a record holds them."""
    example = Dataset().load({"id": "clip", "audio": str(path), "text": "", "language": "en"})
    return SPEECH_TEXT.decode(SPEECH_TEXT.encode(example))["audio"].numpy()


def of_transcribe(path, kind):
    """The samples that Whisper's transcribe takes."""
    return long_form._waveform(str(path), 0)


def of_export(path, kind):
    """The samples behind the first operations of an export."""
    audio, lengths = _export([path.read_bytes()])
    return audio[0, :lengths[0]].numpy()


def outcome(reader, path, kind, expected):
    """"read", if the samples are the expected ones; "refused", if the reader says why not in one line."""
    try:
        samples = reader(path, kind)
    except (AudioError, tf.errors.InvalidArgumentError) as error:
        assert "expected" in str(error)
        return REFUSED
    if expected is None:
        return READ
    # A record rounds to 16 bits; an export resamples with another filter.
    assert abs(len(samples) - len(expected)) <= 1
    inner = slice(300, len(expected) - 300)
    np.testing.assert_allclose(samples[inner], expected[inner].clip(-1, 1), rtol=0, atol=2e-3)
    return READ


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_decoders, "ffmpeg_program", encoder)
        for name, kind in FORMATS.items():
            path = folder / ("sound." + kind.ending)
            path.write_bytes(made(name))
            # Compared with ffmpeg's samples in test_audio_formats.py.
            expected = load_audio(path) if kind.records != REFUSED else None
            found[name] = [outcome(reader, path, kind, expected) for reader in (of_records, of_transcribe, of_export)]
    return found


def test_every_reader_reads_a_format_right_or_refuses_it(rows):
    for name, (records, transcribe, export) in rows.items():
        kind = FORMATS[name]
        wanted = REFUSED if kind.records == REFUSED else READ
        assert (records, transcribe, export) == (wanted, wanted, kind.export), name


def table(rows):
    """The table as the page has it."""
    lines = ["| format | records | transcribe | export | remarks |", "|---|---|---|---|---|"]
    for name, cells in rows.items():
        kind = FORMATS[name]
        shown = [f"{cell}*" if kind.needs_ffmpeg and cell == READ else cell for cell in cells]
        lines.append("| " + " | ".join([name, *shown, kind.remark]) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_has_this_table(rows):
    page = PAGE.read_text("utf-8")
    found = re.search(r"^\| format \|.*?\n(?=\n)", page, re.M | re.S)
    if os.environ.get("TFHF_WRITE_TABLE") == "1":
        PAGE.write_text(page.replace(found[0], table(rows)), "utf-8")
    assert found[0] == table(rows), "write it anew with TFHF_WRITE_TABLE=1"
