"""The long proof of unet_depth (`make nightly`): it learns depth from made pictures; it prints its figures."""

import time

import numpy as np
import pytest

from pipelines.unet_depth import RECIPES, TASK
from tests import depth_scenes
from tfhf import run
from tfhf.data.image import decode_depth
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_DEPTH
from tfhf.metrics.depth import DepthErrors

pytestmark = pytest.mark.nightly
SPLITS = {"train": (256, 0), "validation": (64, 10_000)}   # examples, number of the first scene


def test_learns_depth_that_a_constant_cannot_tell(tmp_path):
    examples = {split: depth_scenes.examples(*of) for split, of in SPLITS.items()}
    for split, made in examples.items():
        with RecordWriter(tmp_path / "records", split, IMAGE_DEPTH, writer="proof", options={}, dataset={}) as writer:
            for example in made:
                writer.write(example)
    truths = {split: [decode_depth(example["depth"], depth_scenes.SCALE)[0].numpy() for example in made]
              for split, made in examples.items()}
    pixels = np.concatenate([truth[truth > 0] for truth in truths["train"]])
    constants = []
    for value in (pixels.mean(), np.median(pixels), np.exp(np.log(pixels).mean())):   # the best in RMSE, L1 and log
        metric = DepthErrors()
        for truth in truths["validation"]:
            metric.update(truth, np.full_like(truth, value))
        constants.append(metric.result())
    constant = {key: min(one[key] for one in constants) for key in ("abs_rel", "rmse", "rmse_log")}

    config = RECIPES["tiny_cpu"].override([f"output={tmp_path}/run", f"data.path={tmp_path}/records"])
    begin = time.monotonic()
    run.train(TASK, config)
    seconds, learnt = time.monotonic() - begin, run.evaluate(TASK, config)
    print(f"\n256 scenes, {config.steps} steps of {config.batch_size}: {seconds:.0f} s; on 64 unseen ones abs rel "
          f"{learnt['abs_rel']:.3f} (best constant {constant['abs_rel']:.3f}), RMSE {learnt['rmse']:.3f} m "
          f"({constant['rmse']:.3f}), RMSE log {learnt['rmse_log']:.3f} ({constant['rmse_log']:.3f}), delta_1 "
          f"{learnt['delta_1']:.3f} ({max(one['delta_1'] for one in constants):.3f})")
    assert learnt["examples"] == 64
    for key, value in constant.items():
        assert learnt[key] < 0.5 * value, key
