"""Synthesised speech: the sentences need nothing, the sound needs the library."""

import numpy as np
import pytest

from tfhf.data.records import RecordReader
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.data.writing import write_split
from tfrecords.espeak import Espeak, sentences


def test_sentences_are_different_and_the_same_for_a_seed():
    made = sentences(568)
    assert len(set(made)) == 568 and made == sentences(568) and made != sentences(568, seed=1)
    assert all(text.endswith(".") and "  " not in text for text in made)


def test_splits(tmp_path):
    dataset = Espeak(tmp_path)
    ids = {split: [item["id"] for item in dataset.examples(split)] for split in dataset.splits()}
    assert {split: len(names) for split, names in ids.items()} == {"train": 468, "validation": 50, "test": 50}
    assert len(set(sum(ids.values(), []))) == 568
    small = Espeak(tmp_path, ["a", "b", "c"])
    assert [len(list(small.examples(split))) for split in small.splits()] == [1, 1, 1]
    assert [item["text"] for item in small.examples("train", 1)] == []
    with pytest.raises(RecordError, match="2 sentences, expected 3 or more"):
        Espeak(tmp_path, ["a", "b"])


def test_a_folder_without_the_library(tmp_path):
    dataset = Espeak(tmp_path, ["one", "two", "three"])
    with pytest.raises(RecordError, match="no libespeak-ng"):
        dataset.load(next(dataset.examples("test")))


def test_speech(assets, tmp_path):
    dataset = Espeak(assets("espeak-ng"), ["Hello.", "Goodbye, my good friend.", "Please press one."])
    write_split(dataset, tmp_path, "test", log=lambda line: None)
    with RecordReader(tmp_path / "test", SPEECH_TEXT) as reader:
        example = SPEECH_TEXT.decode(reader.read(0))
    audio = example["audio"].numpy()
    assert example["text"].numpy() == b"Please press one." and example["language"].numpy() == b"en"
    assert 0.5 < len(audio) / 16000 < 4 and 0.02 < np.sqrt(np.mean(audio ** 2)) < 0.5
    again = dataset.load({**next(dataset.examples("test")), "id": "again"})["audio"]
    assert abs(len(again) - len(audio)) < 0.05 * len(audio)  # the library varies its timing from call to call
    with pytest.raises(RecordError, match="no voice 'klingon-x'"):
        Espeak(assets("espeak-ng"), ["a", "b", "c"], voice="klingon-x").load(next(dataset.examples("test")))
