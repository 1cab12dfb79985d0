"""Synthesised speech: the sentences need nothing, the sound needs the library."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfhf.data.records import RecordReader
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.data.writing import write_split
from tfrecords.espeak import PLAIN, VARIANTS, Espeak, Variant, read_texts, sentences

FOUR_LANGUAGES = Path(__file__).resolve().parent.parent / "fixtures" / "four_languages.txt"


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
    with pytest.raises(RecordError, match="2 sentences for voice en-us, expected 3 or more"):
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
    other = Espeak(assets("espeak-ng"), ["a", "b", "c"], voice="klingon-x")
    with pytest.raises(RecordError, match="no voice 'klingon-x'"):
        other.load(next(other.examples("test")))


def test_languages_and_variants(tmp_path):
    texts = read_texts(FOUR_LANGUAGES, "en-us")
    assert {voice: len(lines) for voice, lines in texts.items()} == {"en-us": 50, "de": 50, "es": 50, "fr": 50}
    dataset = Espeak(tmp_path, texts, variants=VARIANTS)
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert {split: len(rows) for split, rows in items.items()} == {
        "train": 4 * 40 * len(VARIANTS["train"]), "validation": 4 * 5 * len(VARIANTS["validation"]),
        "test": 4 * 5 * len(VARIANTS["test"])}
    ids = [item["id"] for rows in items.values() for item in rows]
    assert len(set(ids)) == len(ids) and "de-m3-150-55-" in next(i for i in ids if i.startswith("de-m3"))
    for key in ("text", "variant"):   # the test split has neither a sentence nor a voice of the training
        seen = {item[key] for item in items["train"]}
        assert not seen & {item[key] for split in ("validation", "test") for item in items[split]}
    assert {item["language"] for item in items["test"]} == {"en", "de", "es", "fr"}
    assert dataset.options("test")["variants"] != dataset.options("train")["variants"]


def test_lines_with_a_voice_of_their_own(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("cmn\t你好。\nHello.\n\n\t Goodbye. \ncmn\t再见。\ncmn\t谢谢。\n", encoding="utf-8")
    texts = read_texts(path, "en-gb")
    assert texts == {"cmn": ["你好。", "再见。", "谢谢。"], "en-gb": ["Hello.", "Goodbye."]}
    with pytest.raises(RecordError, match="2 sentences for voice en-gb"):
        Espeak(tmp_path, texts)
    first = next(Espeak(tmp_path, {"cmn": texts["cmn"]}).examples("train"))
    assert first["language"] == "zh" and first["id"].startswith("000000-") and PLAIN["train"] == (Variant(),)


def test_variants_sound_different(assets):
    def clip(variant, text="The weather will be fine again tomorrow."):
        dataset = Espeak(assets("espeak-ng"), [text] * 3, variants={**PLAIN, "test": (variant,)})
        return dataset.load(next(dataset.examples("test")))

    slow, fast = (len(clip(Variant("m3", rate))["audio"]) for rate in (120, 220))
    assert slow > 1.3 * fast

    def period(variant):   # of the voice: the first peak of the autocorrelation between 60 and 400 Hz
        audio = clip(variant)["audio"]
        power = np.abs(np.fft.rfft(audio, 2 * len(audio))) ** 2
        return 40 + np.argmax(np.fft.irfft(power)[40:266])

    assert period(Variant("", pitch=20)) > 1.2 * period(Variant("", pitch=80))
    assert period(Variant("m3")) > 1.3 * period(Variant("f2"))
    with pytest.raises(RecordError, match="no timbre 'f99', expected one like m3 or f2"):
        clip(Variant("f99"))


def test_several_threads_start_the_library_once(assets, tmp_path):
    """In a process of its own: here it is started already. Two starts at once end the process without a trace."""
    code = f"""
from tfhf.data.writing import write_split
from tfrecords.espeak import PLAIN, VARIANTS, Espeak
dataset = Espeak({str(assets("espeak-ng"))!r}, ["One.", "Two.", "Three."],
                 variants={{**PLAIN, "train": VARIANTS["train"]}})
print(write_split(dataset, {str(tmp_path)!r}, "train", workers=8, log=print)["count"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=FOUR_LANGUAGES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1] == str(len(VARIANTS["train"])), done.stderr[-2000:]
