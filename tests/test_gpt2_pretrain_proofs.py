"""Nightly: a small GPT-2 from nothing on a real book: its perplexity against the words' bare frequencies, its words."""

import argparse
import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

from pipelines.gpt2_pretrain import RECIPES, TASK
from tfhf import run
from tfhf.data.records import RecordReader
from tfhf.data.schema import TOKENS
from tfhf.data.text import packing_waste
from tfhf.data.writing import write_split
from tfhf.metrics.perplexity import unigram_perplexity
from tfrecords import king_james

PROMPTS = ["And the LORD said unto Moses,", "In the beginning", "Jesus"]


def _ids(folder, predicted):
    """All ids of a split's folder; `predicted`: only those that have one of their document before them."""
    found = []
    with RecordReader(folder, TOKENS) as reader:
        for number in range(len(reader)):
            row = {name: value.numpy() for name, value in TOKENS.decode(reader.read(number)).items() if name != "id"}
            ids, segments = row["input_ids"], row["segment_ids"]
            found.append(ids[1:][segments[1:] == segments[:-1]] if predicted else ids)
    return np.concatenate(found)


@pytest.mark.nightly
def test_a_book(assets, tmp_path):
    folder, records = assets("king-james-bible"), tmp_path / "records"
    parser = argparse.ArgumentParser()
    king_james.add_arguments(parser)
    arguments = parser.parse_args(["--folder", str(folder), "--train-tokenizer", "4096", "--length", "256"])
    arguments.out, arguments.overwrite = str(records), False
    dataset = king_james.open_dataset(arguments)
    for split in dataset.splits():
        write_split(dataset, records, split, log=lambda line: None)
        waste = packing_waste(records / split, 256)
        print(f"{split}: waste of packing {waste:.2%}")
        assert waste < 0.03
    config = RECIPES["king_james"].override([f"output={tmp_path / 'run'}", f"data.path={records}"])
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, tokenizer=f"{records}/tokenizer.json"))
    run.train(TASK, config)
    found = run.evaluate(TASK, config)
    unigram = unigram_perplexity(_ids(records / "train", False), _ids(records / "validation", True), 4096)
    print(f"validation perplexity {found['perplexity']:.1f}, unigram {unigram:.1f}, {found['tokens']} tokens")
    assert found["perplexity"] < unigram / 3
    task = TASK(config.task)
    model = run.load_trained(task, config.output)
    prompts = [row.numpy().tolist() for row in task.tokenizer.encode(PROMPTS)]
    drawn = model.generate_with_scores(prompts, max_new_tokens=48, temperature=0.8, top_k=40, jit_compile=False)
    known = {word.lower() for split in dataset.splits() for _, text in king_james.KingJames(folder).texts(split)
             for word in re.findall(r"[A-Za-z]+", text)}
    texts = [text.decode() for text in task.tokenizer.decode(tf.constant(drawn["sequences"])).numpy()]
    words = [word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)[:-1]]   # the last may be cut
    share = np.mean([word in known for word in words])
    for prompt, text in zip(PROMPTS, texts):
        print(f"{prompt}|{text!r}")
    print(f"{share:.1%} of {len(words)} words are words of the book")
    assert len(words) > 60 and share > 0.9
