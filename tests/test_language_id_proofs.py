"""The long proof of language identification (`make nightly`): English told from three other languages."""

import random
import time
from pathlib import Path

import pytest
import tensorflow as tf

from pipelines.language_id import RECIPES, TASK
from tfhf import run
from tfhf.data.writing import write_split
from tfrecords.espeak import VARIANTS, Espeak, read_texts

pytestmark = pytest.mark.nightly
SENTENCES = Path(__file__).resolve().parent / "fixtures" / "four_languages.txt"


def _shuffled(lines, count):
    """`count` rows of words of these sentences in any order: more sound of the language, no sentence to remember."""
    draw, words = random.Random(0), [word.strip(".,?¿!").lower() for line in lines for word in line.split()]
    return [" ".join(draw.choices(words, k=draw.randint(4, 8))).capitalize() + "." for _ in range(count)]


def test_english_is_told_from_three_languages_by_voices_never_heard(assets, tmp_path):
    """Trained on 40 sentences of each language and on their words; tested on 5 others, in five other timbres."""
    folder, texts, begin = assets("espeak-ng"), read_texts(SENTENCES, "en-us"), time.perf_counter()
    heard = {voice: lines[:40] + _shuffled(lines[:40], 960) for voice, lines in texts.items()}
    fit, whole = Espeak(folder, heard, variants=VARIANTS, readings=1), Espeak(folder, texts, variants=VARIANTS)
    known, new = list(fit.examples("train")), list(whole.examples("test"))
    assert not {item["text"] for item in new} & {item["text"] for item in known}
    assert not {item["variant"].timbre for item in new} & {item["variant"].timbre for item in known}
    for dataset, split in ((fit, "train"), (whole, "test")):
        write_split(dataset, tmp_path / "records", split, log=lambda line: None)
    written = time.perf_counter()
    config = RECIPES["tiny_cpu"].override([f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}"])
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
