"""Nightly: MiniLM on 3,000 real review sentences, 600 held out: the head alone, an adapter, then all of it."""

import dataclasses

import pytest

from pipelines.text_classification import RECIPES, TASK
from tfhf import run
from tfhf.data.writing import write_split
from tfrecords.reviews import Reviews


@pytest.mark.nightly
def test_reviews_frozen_adapted_and_full(assets, tmp_path):
    dataset = Reviews(assets("reviews"))
    for split in dataset.splits():
        write_split(dataset, tmp_path / "records", split, log=lambda line: None)
    found = {}
    for name in ("reviews_frozen", "reviews_lora", "reviews"):
        config = RECIPES[name].override([f"output={tmp_path / name}", f"data.path={tmp_path / 'records'}"])
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, pretrained=str(assets("minilm-l6"))))
        run.train(TASK, config)
        found[name] = run.evaluate(TASK, config, split="test")
        print(f"{name}: accuracy {found[name]['accuracy']:.4f}, macro F1 {found[name]['macro_f1']:.4f}, "
              f"{found[name]['examples']} sentences")
    assert found["reviews_frozen"]["accuracy"] >= 0.86
    for name in ("reviews_lora", "reviews"):
        assert found[name]["accuracy"] > found["reviews_frozen"]["accuracy"] + 0.02
