"""Super-resolution learned from seven photographs, judged on an eighth, and a large one in tiles (`make nightly`)."""

import dataclasses
import json
import time

import keras
import numpy as np
import pytest

from pipelines.srgan import RECIPES, TASK
from tfhf import run
from tfhf.data.degradation import degrade, whole_blocks
from tfhf.data.image import encode_png, read_image, resize, to_float, to_uint8
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_PAIR
from tfhf.metrics.image_quality import PeakSignalToNoiseRatio, StructuralSimilarity
from tfhf.models.srgan.config import SRGANConfig
from tfhf.models.srgan.model import SRGANGenerator
from tfhf.serving import tiled
from tfrecords.skimage import HELD_OUT, PHOTOGRAPHS

PIECE = 96


@pytest.fixture(scope="module")
def photographs(assets):
    """Name -> uint8 [height, width, 3]."""
    folder = assets("scikit-image")
    return {name: read_image(folder / name) for name in PHOTOGRAPHS}


@pytest.fixture(scope="module")
def records(photographs, tmp_path_factory):
    """train: 96 x 96 pieces of seven photographs, which decode quickly; validation: the eighth, whole."""
    folder = tmp_path_factory.mktemp("srgan")
    for split in ("train", "validation"):
        with RecordWriter(folder, split, IMAGE_PAIR, writer="proof", options={}, dataset={}) as writer:
            for name, picture in photographs.items():
                if (name in HELD_OUT) == (split == "train"):
                    continue
                size = PIECE if split == "train" else max(picture.shape)
                for top in range(0, max(1, picture.shape[0] - size + 1), size):
                    for left in range(0, max(1, picture.shape[1] - size + 1), size):
                        piece = picture[top:top + size, left:left + size]
                        writer.write({"id": f"{name}-{top}-{left}", "image": b"", "target": encode_png(piece).numpy(),
                                      "pixels": piece.shape[0] * piece.shape[1]})
    return folder


def _bicubic(picture, scale):
    """{metric: of the enlarged small image}, as the task's metrics tell of its own."""
    large = whole_blocks(to_float(picture), scale)
    enlarged = to_uint8(resize(degrade([0, 0], large, scale), large.shape[:2], "bicubic")).numpy()
    results = {}
    for metric in (PeakSignalToNoiseRatio("y", scale), StructuralSimilarity("y", scale)):
        metric.update(picture, enlarged)
        results.update(metric.result())
    return results


def _told(results):
    return f"{results['psnr_y_crop2']:.2f} dB, {results['ssim_y_crop2']:.4f}"


@pytest.fixture(scope="module")
def pretrained(records, tmp_path_factory):
    """(config, seconds) of SRResNet's run."""
    folder = tmp_path_factory.mktemp("srresnet")
    config = RECIPES["tiny_cpu"].override([f"output={folder / 'run'}", f"data.path={records}"])
    begin, cpu = time.perf_counter(), time.process_time()
    history = run.train(TASK, config)
    print(f"\nSRResNet, {history['parameters']:,} parameters, {config.steps} steps of {config.batch_size}: "
          f"{time.perf_counter() - begin:.0f} s, {time.process_time() - cpu:.0f} s of CPU; loss "
          f"{np.mean(history['loss'][:20]):.5f} -> {np.mean(history['loss'][-20:]):.5f}")
    return config


@pytest.mark.nightly
def test_a_small_srresnet_beats_bicubic_on_a_photograph_it_has_not_seen(pretrained, photographs):
    ours, bicubic = run.evaluate(TASK, pretrained), _bicubic(photographs[HELD_OUT[0]], 2)
    print(f"\n{HELD_OUT[0]}, x2, luma: SRResNet {_told(ours)}; bicubic {_told(bicubic)}")
    assert ours["psnr_y_crop2"] >= bicubic["psnr_y_crop2"] + 0.5 and ours["ssim_y_crop2"] > bicubic["ssim_y_crop2"]


@pytest.mark.nightly
def test_the_adversarial_stage_runs_200_steps_without_collapse(pretrained, photographs, tmp_path):
    task = dataclasses.replace(pretrained.task, stage="adversarial", start_from=pretrained.output)
    config = dataclasses.replace(pretrained, task=task).override([
        f"output={tmp_path / 'run'}", "steps=200", "optimizer.learning_rate=1e-3", "optimizer.schedule=constant",
        "optimizer.warmup_steps=0"])
    begin = time.perf_counter()
    history = run.train(TASK, config)
    seconds = time.perf_counter() - begin
    lines = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    blame = [line["discriminator_loss"] for line in lines if "discriminator_loss" in line]
    before, after = run.evaluate(TASK, pretrained), run.evaluate(TASK, config)
    pair = run.load_trained(TASK(config.task), config.output)
    originals = to_float(np.stack([picture[:96, :96] for picture in photographs.values()])).numpy()
    side = config.task.discriminator.image_size
    pieces = np.concatenate([originals[:, top:top + side, left:left + side] for top in (0, 48) for left in (0, 48)])
    small = np.stack([degrade([0, 0], piece, 2) for piece in pieces])
    fakes = np.asarray(pair.generator(small))
    real, fake = (keras.ops.convert_to_numpy(keras.ops.sigmoid(pair.discriminator(x))) for x in (2 * pieces - 1, fakes))
    contrast = fakes.std() / (2 * pieces).std()
    print(f"\n200 adversarial steps in {seconds:.0f} s: generator loss {np.mean(history['loss'][:20]):.5f} -> "
          f"{np.mean(history['loss'][-20:]):.5f}; {HELD_OUT[0]} {_told(before)} -> {_told(after)}; the discriminator "
          f"takes originals for ones with {real.mean():.2f}, fakes with {fake.mean():.2f}, its loss "
          f"{np.mean(blame[:20]):.3f} -> {np.mean(blame[-20:]):.3f}; contrast {contrast:.3f}")
    assert np.isfinite(history["loss"]).all() and max(history["loss"]) < 0.1
    assert after["psnr_y_crop2"] > before["psnr_y_crop2"] - 3 and 0.9 < contrast < 1.1
    assert real.mean() > 0.1 and fake.mean() < 0.9   # neither has given up
    assert len(blame) == 200 and np.mean(blame[-20:]) < np.mean(blame[:20])


@pytest.mark.nightly
def test_a_large_photograph_in_tiles_is_the_whole_one(photographs):
    """1,000 x 1,500 pixels, made 2,000 x 3,000: by random weights, narrow ones, since the whole must fit in memory."""
    picture = np.clip(resize(to_float(photographs["coffee.png"]), (1000, 1500), "bicubic"), 0, 1)
    config = SRGANConfig(2, 8, 4)
    keras.utils.set_random_seed(0)
    generator = SRGANGenerator(config)
    begin = time.perf_counter()
    whole = generator(picture[None])[0].numpy()
    between = time.perf_counter()
    parts = tiled(generator, picture, 2, 160, config.receptive_radius).numpy()
    worst = 255 * np.abs(0.5 * (parts - whole)).max()
    seconds = between - begin, time.perf_counter() - between
    print(f"\n1,000 x 1,500 -> {parts.shape[0]:,} x {parts.shape[1]:,}: whole {seconds[0]:.1f} s, in tiles of 160 + 2 "
          f"x {config.receptive_radius} {seconds[1]:.1f} s; largest difference {worst:.1e} / 255")
    assert parts.shape == (2000, 3000, 3) and worst < 0.5
