"""The long proof of language identification (`make nightly`): English told from three other languages."""

import gzip
import random
import time
from pathlib import Path

import msgpack
import pytest
import tensorflow as tf

from pipelines.language_id import RECIPES, TASK
from tfhf import run
from tfhf.data.writing import write_split
from tfrecords.espeak import VARIANTS, Espeak, Variant, read_texts

pytestmark = pytest.mark.nightly
SENTENCES = Path(__file__).resolve().parent / "fixtures" / "four_languages.txt"
CLIPS = 6000   # of words, for each language


def _word_rows(path, count):
    """`count` rows of 4 to 7 words of a language, common ones often: its sound, and no sentence to remember.

    The file holds lists of words, those of list i have frequency 10^(-i / 100).
    """
    draw, words, weights = random.Random(0), [], []
    for number, some in enumerate(msgpack.unpackb(gzip.decompress(path.read_bytes()))[1:]):
        some = [word for word in some if word.isalpha()]
        words += some
        weights += [10 ** (-0.8 * number / 100)] * len(some)   # a little flatter, so that more words are heard
    return [" ".join(draw.choices(words, weights, k=draw.randint(4, 7))).capitalize() + "." for _ in range(count)]


def _many_variants():
    """Every timbre of the training at eight speeds and pitches."""
    draw = random.Random(0)
    return tuple(Variant(variant.timbre, draw.randint(140, 215), draw.randint(25, 75))
                 for _ in range(8) for variant in VARIANTS["train"])


def test_english_is_told_from_three_languages_by_voices_never_heard(assets, tmp_path):
    """Trained on 40 sentences of each language and rows of its words; tested on 5 others, in five other timbres."""
    folder, texts, begin = assets("espeak-ng"), read_texts(SENTENCES, "en-us"), time.perf_counter()
    frequencies = assets("word-frequencies")
    heard = {voice: lines[:40] * 3 + _word_rows(frequencies / f"small_{voice[:2]}.msgpack.gz", CLIPS)
             for voice, lines in texts.items()}
    fit = Espeak(folder, heard, variants={**VARIANTS, "train": _many_variants()}, readings=1)
    whole = Espeak(folder, texts, variants=VARIANTS)
    known, new = list(fit.examples("train")), list(whole.examples("test"))
    assert not {item["text"] for item in new} & {item["text"] for item in known}
    assert not {item["variant"].timbre for item in new} & {item["variant"].timbre for item in known}
    for dataset, split in ((fit, "train"), (whole, "test")):
        write_split(dataset, tmp_path / "records", split, log=lambda line: None)
    written = time.perf_counter()
    config = RECIPES["tiny_cpu"].override([f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}",
                                           "data.drop_longer=true"])
    history = run.train(TASK, config)
    trained = time.perf_counter()
    results = run.evaluate(TASK, config, "test")
    picture = next((tmp_path / "run/evaluation").glob("test-*/confusion_matrix.png"))
    print(f"\n{len(known)} clips written in {written - begin:.0f} s; {history['parameters']:,} parameters, "
          f"{config.steps} steps in {trained - written:.0f} s, loss {history['loss'][0]:.2f} -> "
          f"{sum(history['loss'][-50:]) / 50:.3f}\n{len(new)} clips of sentences and voices never heard: accuracy "
          f"{results['accuracy']:.3f}, macro F1 {results['macro_f1']:.3f}, {config.task.classes}: "
          f"{results['confusion_matrix']}")
    assert results["examples"] == len(new) == 100 and tf.io.decode_png(picture.read_bytes()).shape[2] == 3
    assert results["accuracy"] >= 0.95
