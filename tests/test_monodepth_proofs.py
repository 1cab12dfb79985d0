"""Left-right consistency on a real stereo pair with measured disparity: the sampler, and learning (`make nightly`)."""

import time

import numpy as np
import pytest
import tensorflow as tf

from pipelines.monodepth import RECIPES, TASK
from tfhf import run
from tfhf.data.records import RecordReader
from tfhf.data.schema import STEREO
from tfhf.data.stereo import measured_disparity, stereo_pair
from tfhf.data.writing import write_split
from tfhf.losses.monodepth import warped
from tfrecords.skimage import ScikitImage


@pytest.fixture(scope="module")
def records(assets, tmp_path_factory):
    """Folder with the pair "motorcycle", 500 x 741, as a stereo record."""
    folder = tmp_path_factory.mktemp("motorcycle")
    write_split(ScikitImage(assets("scikit-image"), "stereo"), folder, "train", log=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def pair(records):
    """left, right float32 [height, width, 3] in [0, 1], disparity float32 [height, width], 0 where not measured."""
    with RecordReader(records / "train") as reader:
        example = STEREO.decode(tf.constant(reader.read(0)))
    left, right = (image.numpy() / np.float32(255) for image in stereo_pair(example))
    return left, right, measured_disparity(example).numpy()[..., 0]


def test_the_true_disparity_rebuilds_the_left_image(pair):
    left, right, disparity = pair
    seen = (disparity > 0) & (np.arange(left.shape[1]) >= disparity)   # the rest is outside the right image
    rebuilt = np.asarray(warped(right[None], disparity[None, ..., None] / left.shape[1]))[0]
    wrong_way = np.asarray(warped(right[None], disparity[None, ..., None] / left.shape[1], to_right=True))[0]
    off = {}
    print(f"\nright image against the left one, {seen.mean():.1%} of the pixels:")
    for name, image in (("with the true disparity", rebuilt), ("not warped", right), ("the wrong way", wrong_way)):
        off[name], psnr = np.abs(image - left)[seen].mean(axis=-1), -10 * np.log10(np.mean((image - left)[seen] ** 2))
        print(f"{name}: L1 {off[name].mean():.4f}, median {np.median(off[name]):.4f}, PSNR {psnr:.2f} dB")
    right_way, without = off["with the true disparity"], off["not warped"]
    assert right_way.mean() < 0.04 and np.median(right_way) < 0.02   # what the left camera alone sees stays wrong
    assert right_way.mean() < without.mean() / 4 and off["the wrong way"].mean() > without.mean()


@pytest.mark.nightly
def test_a_small_network_learns_disparity_from_crops_of_one_pair(records, pair, tmp_path):
    """Nothing but the two images trains it; the measured disparity only scores it."""
    _, _, disparity = pair
    config = RECIPES["tiny_cpu"].override([f"output={tmp_path / 'run'}", f"data.path={records}"])
    begin = time.perf_counter(), time.process_time()
    history = run.train(TASK, config)
    seconds, of_cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    untrained, trained = (run.evaluate(TASK, config, checkpoint=which) for which in ("initial", "last"))
    measured = disparity[disparity > 0]
    constant = np.abs(measured - np.median(measured)).mean()   # the median has the least error of all constants
    print(f"\n{history['parameters']:,} parameters, {config.steps} steps in {seconds:.0f} s ({of_cpu:.0f} s of all "
          f"cores' time), loss {history['loss'][0]:.3f} -> {np.mean(history['loss'][-20:]):.3f}; error against the "
          f"measured disparity, in pixels of 741: untrained {untrained['epe']:.2f}, best constant {constant:.2f}, "
          f"trained {trained['epe']:.2f}: {constant / trained['epe']:.2f} times less than the constant's, "
          f"{untrained['epe'] / trained['epe']:.2f} than the untrained one's; D1 {untrained['d1_all']:.1%} -> "
          f"{trained['d1_all']:.1%}")
    assert 2 * trained["epe"] <= min(constant, untrained["epe"])
