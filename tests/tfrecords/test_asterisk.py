"""The Asterisk writer, on a small tree of the same shape."""

import gzip

import numpy as np
import pytest
import soundfile

from tfhf.data.records import RecordReader
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.data.writing import write_split
from tfrecords.asterisk import Asterisk


@pytest.fixture
def prompts(tmp_path):
    root = tmp_path / "prompts" / "sounds" / "en"
    lines = ["; a comment", ""]
    for number in range(12):
        name = f"digits/{number}" if number < 3 else f"word-{number}"
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(800, number / 100), 8000, subtype="PCM_16")
        lines.append(f"{name}:  Number {number}: said. ")
    lines.append("never-recorded: There is no such file.")
    text = tmp_path / "prompts" / "doc" / "core-sounds-en.txt.gz"
    text.parent.mkdir()
    text.write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path / "prompts"


def test_split_is_fixed_and_text_is_as_it_stands(prompts, tmp_path):
    dataset = Asterisk(prompts, clips=12, held_out=2)
    ids = {split: [item["id"] for item in dataset.examples(split)] for split in dataset.splits()}
    assert {split: len(names) for split, names in ids.items()} == {"train": 8, "validation": 2, "test": 2}
    assert len(set(sum(ids.values(), []))) == 12
    assert ids["test"] == ["digits/1", "word-9"]   # by the SHA-256 of the names, for ever
    manifest = write_split(dataset, tmp_path / "out", "test", log=lambda line: None)
    assert manifest["dataset"]["licence"] == "CC-BY-SA-3.0"
    with RecordReader(tmp_path / "out" / "test", SPEECH_TEXT) as reader:
        example = SPEECH_TEXT.decode(reader.read(0))
        assert example["text"].numpy() == b"Number 1: said." and example["language"].numpy() == b"en"
        assert example["num_samples"].numpy() == 1600   # 8 kHz became 16 kHz
        np.testing.assert_allclose(example["audio"].numpy()[200:-200], 0.01, atol=1e-3)


def test_what_is_not_the_prompts_is_refused(prompts):
    with pytest.raises(RecordError, match="12 wav files, 0 of them without a transcript .*expected 568"):
        Asterisk(prompts)
    soundfile.write(prompts / "sounds" / "en" / "new.wav", np.zeros(800), 8000)
    with pytest.raises(RecordError, match=r"1 of them without a transcript \(\['new'\]\)"):
        Asterisk(prompts, clips=13)
    with pytest.raises(RecordError, match="no core-sounds-en.txt"):
        Asterisk(prompts / "sounds")
