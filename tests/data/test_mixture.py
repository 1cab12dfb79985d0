"""Mixtures: how much each folder gives, in which order, on which host; and batches prepared whole."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tests import toy_task
from tfhf import run
from tfhf.config import ConfigError
from tfhf.data.pipeline import evaluation_batches, padding_stats, training_batches
from tfhf.data.plan import TrainingPlan, shares_of
from tfhf.data.records import JoinedReader, RecordReader, RecordWriter
from tfhf.data.schema import FLAC, PCM16, SPEECH_TEXT, RecordError
from tfhf.task import Task

SIZES = {"a": 40, "b": 9, "c": 25}


class SpeechTask(Task):
    """Audio of a batch, one example at a time or all at once."""

    record_type = SPEECH_TEXT

    def __init__(self, *buckets, batched=False):
        self.buckets, self.batched = buckets, batched

    def preprocess(self, example, bucket, training):
        audio = example["audio"]
        if not self.batched:
            audio = tf.pad(audio, [[0, bucket - tf.shape(audio)[0]]])
        inputs = {"audio": audio, "seed": example["seed"], "id": example["id"]}
        return inputs, example["num_samples"], tf.cast(example["num_samples"], tf.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)
    for name, count in SIZES.items():
        encoding = FLAC if name == "c" else PCM16
        with RecordWriter(out / name, "train", SPEECH_TEXT, shard_bytes=6000, audio_encoding=encoding) as writer:
            for number in range(count):
                audio = rng.integers(-32768, 32767, rng.integers(1, 1000)).astype(np.int16)
                writer.write({"id": f"{name}{number}", "audio": audio, "text": str(number)})
    return out


def mixture(folders, **weights):
    return [(str(folders / name), weight) for name, weight in weights.items()]


def ids(dataset):
    return [[key.decode() for key in inputs["id"].numpy()] for inputs, _, _ in dataset]


@pytest.mark.parametrize("buckets", [(1000,), (200, 500, 1000)])
def test_shares_are_exact_and_no_record_repeats_before_its_turn(folders, buckets):
    path, steps = mixture(folders, a=0.5, b=0.3, c=0.2), 37 * 4   # an epoch is 74 examples; 148 steps of 8 are 16
    seen = collections.Counter(sum(ids(training_batches(
        SpeechTask(*buckets), path, "train", batch_size=8, seed=1, num_steps=steps)), []))
    assert sum(seen.values()) == 8 * steps
    for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        counts = [seen[f"{name}{number}"] for number in range(SIZES[name])]
        # A bucket may be a batch ahead or behind, and each part of a count is rounded down.
        assert abs(sum(counts) - 8 * steps * share) <= 8 * len(buckets) + len(buckets)
        assert max(counts) - min(counts) <= 3, name


def test_order_is_a_function_of_seed_and_step_on_every_host(folders):
    path = mixture(folders, a=1, b=3, c=0.7)

    def run(start=0, steps=30, seed=2, **options):
        return ids(training_batches(SpeechTask(300, 1000), path, "train", batch_size=4, seed=seed, start_step=start,
                                    num_steps=steps, normalise_weights=False, **options))

    whole = run()
    assert whole == run() and whole != run(seed=3)
    for start in (1, 17, 29):
        assert whole[start:] == run(start, 30 - start)
    halves = [run(num_hosts=2, host_index=host) for host in (0, 1)]
    assert whole == [first + second for first, second in zip(*halves)]


def test_plan_of_a_mixture_against_counting_one_by_one():
    rng = np.random.default_rng(0)
    for case in range(15):
        sources, buckets = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        sizes = rng.integers(1, 20, sources)
        starts = np.cumsum([0, *sizes])[:-1]
        bucket_of = rng.integers(0, buckets, sizes.sum())
        members = [np.flatnonzero(bucket_of == bucket) for bucket in range(buckets)]
        weights = rng.uniform(0.1, 5, sources).round(2)
        options = {"starts": starts, "weights": weights}
        batch_size = int(rng.integers(1, 9))
        plan = TrainingPlan(members, range(buckets), batch_size, case, **options)
        given = np.zeros(sources)
        for step in range(80):
            numbers = plan.batch(step).numbers
            fresh = TrainingPlan(members, range(buckets), batch_size, case, **options).batch(step)
            np.testing.assert_array_equal(numbers, fresh.numbers)
            assert len(set(bucket_of[numbers])) == 1
            assert plan.steps_before(plan.epoch_of(step)) <= step < plan.steps_before(plan.epoch_of(step) + 1)
            np.add.at(given, np.searchsorted(starts, numbers, "right") - 1, 1)
        # Off by the epoch that is under way, and by a batch per bucket.
        expected = 80 * batch_size * weights / weights.sum()
        np.testing.assert_allclose(given, expected, atol=sizes.sum() + buckets * (batch_size + sources))


def test_one_source_is_the_plain_order_and_far_steps_are_reached_at_once():
    plain = TrainingPlan([np.arange(50)], (1,), 8, 0)
    single = TrainingPlan([np.arange(50)], (1,), 8, 0, starts=(0,), weights=(0.3,))
    for step in (0, 7, 6000):
        np.testing.assert_array_equal(plain.batch(step).numbers, single.batch(step).numbers)
    far = TrainingPlan([np.arange(100_003)], (1,), 256, 0, starts=(0, 99_000), weights=(0.01, 7))
    numbers = far.batch(10**9).numbers
    assert len(numbers) == 256 and (numbers >= 99_000).mean() > 0.98


def test_joined_readers_give_each_ones_records(folders):
    readers = [RecordReader(folders / name / "train", SPEECH_TEXT) for name in SIZES]
    joined = JoinedReader(readers)
    numbers = np.random.default_rng(0).integers(0, sum(SIZES.values()), 200)
    records = [record for reader in readers for record in reader.read_many(np.arange(len(reader)))]
    assert joined.read_many(numbers) == [records[number] for number in numbers]
    assert joined.encoding is None and joined.where(41) == str(folders / "b/train/train-00000.tfrecord: record 1")
    with pytest.raises(RecordError, match="record 40, expected 0 to 39"):
        readers[0].read_many([3, 40])


def test_padding_of_a_mixture_is_weighted(folders):
    path, task = mixture(folders, a=3, b=1), SpeechTask(1000)
    a, b = (padding_stats(task, folders / name, "train") for name in "ab")
    expected = 1 - (0.75 * a.real / 40 + 0.25 * b.real / 9) / 1000
    assert padding_stats(task, path, "train").fraction == pytest.approx(expected, abs=1e-4)


def test_bad_mixtures_are_refused(folders, tmp_path):
    task = SpeechTask(1000)

    def open_with(path):
        return training_batches(task, path, "train", batch_size=4, seed=0)

    for weights in ((0.5, 0.0), (1.0, float("nan")), (1.0, -1.0), (1.0, float("inf")), ()):
        with pytest.raises(ValueError, match="weights of the mixture are"):
            shares_of(weights)
    with pytest.raises(ValueError, match="names a folder twice"):
        open_with(mixture(folders, a=1) * 2)
    with pytest.raises(ValueError, match="expected positive numbers"):
        open_with([])
    with pytest.raises(RecordError, match=r"series.*records of type 'series', expected 'speech_text'"):
        toy_task.write_records(tmp_path / "series")
        open_with([*mixture(folders, a=1), (tmp_path / "series", 1)])
    with pytest.raises(RecordError, match="source 1 of the mixture has no record that fits"):
        TrainingPlan([np.arange(3)], (5,), 1, 0, starts=(0, 3), weights=(1, 1))


def test_the_config_of_a_mixture(tmp_path):
    config = toy_task.run_config(tmp_path).override(["data.mixture=x,gs://y/z", "data.mixture_weights=0.25,1"])
    assert config.data.training_path == [("x", 0.25), ("gs://y/z", 1.0)]
    assert config.override(["data.mixture=", "data.mixture_weights="]).data.training_path == config.data.path
    for wrong in ("data.mixture_weights=1", "data.mixture_weights=1,0", "data.mixture_weights=1,nan"):
        with pytest.raises(ConfigError, match="data.mixture_weights: got .*expected a positive weight"):
            config.override([wrong]).data.training_path
    with pytest.raises(ConfigError, match="data.mixture: got .*expected each folder once"):
        config.override(["data.mixture=x,x"]).data.training_path


def test_a_run_trains_on_a_mixture_and_holds_on_to_it(tmp_path):
    toy_task.write_records(tmp_path / "records")
    toy_task.write_records(tmp_path / "other")
    config = toy_task.run_config(tmp_path, steps=4, evaluate_every=4, log_every=4, checkpoint_every=4).override(
        [f"data.mixture={tmp_path}/records,{tmp_path}/other", "data.mixture_weights=1,3", "jit_compile=false"])
    assert run.train(toy_task.ToyTask, config)["step"] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"data.mixture_weights: \[1.0, 3.0\] -> \[1.0, 2.0\]"):
        run.train(toy_task.ToyTask, config.override(["data.mixture_weights=1,2", "steps=8"]))


@pytest.mark.parametrize("name", ["a", "c", "both"])
@pytest.mark.parametrize("buckets", [(1000,), (300, 1000)])
def test_a_batch_prepared_whole_is_the_batch_of_its_examples(folders, name, buckets):
    path = mixture(folders, a=1, c=1) if name == "both" else folders / name
    options = {"batch_size": 4, "seed": 0, "num_steps": 12}
    batched = training_batches(SpeechTask(*buckets, batched=True), path, "train", **options)
    single = training_batches(SpeechTask(*buckets), path, "train", **options)
    for whole, one in zip(batched, single, strict=True):
        tf.nest.map_structure(lambda x, y: np.testing.assert_array_equal(x.numpy(), y.numpy()), whole, one)
    if len(buckets) == 1:
        assert batched.element_spec[0]["audio"].shape == (4, 1000)
    if name != "both":
        pairs = zip(*(evaluation_batches(SpeechTask(*buckets, batched=b), path, "train", batch_size=7)
                      for b in (True, False)), strict=True)
        for whole, one in pairs:
            tf.nest.map_structure(lambda x, y: np.testing.assert_array_equal(x.numpy(), y.numpy()), whole, one)


def test_what_is_kept_of_a_batch_is_not_written_over(folders):
    def batches():   # of more steps than batches are ever under way: memory is used again
        return training_batches(SpeechTask(300, 1000, batched=True), folders / "a", "train", batch_size=4, seed=0,
                                num_steps=60)

    seen = [inputs["audio"].numpy().copy() for inputs, _, _ in batches()]
    kept = [inputs["audio"] for inputs, _, _ in batches()]
    views = [inputs["audio"].numpy() for inputs, _, _ in batches()]
    for before, tensor, view in zip(seen, kept, views, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), before)
        np.testing.assert_array_equal(view, before)


def take(record, columns, encoding=PCM16):
    row = np.full(columns, 7, np.float32)
    return SPEECH_TEXT.take_audio(record, row, encoding), row


@pytest.mark.parametrize("count", [1, 5, 20, 63, 64, 100, 8000, 9000])
@pytest.mark.parametrize("encoding", [PCM16, FLAC])
def test_audio_is_taken_out_of_a_record_whatever_its_size(count, encoding):
    audio = np.random.default_rng(count).integers(-32768, 32767, count).astype(np.int16)
    # A text that looks like the entry of the audio is none.
    text = "\n\x05audio\x12" + "x" * (count % 300) + SPEECH_TEXT.encode(
        {"id": "x", "audio": audio[:30] // 300, "text": ""}).decode("latin-1")
    record = SPEECH_TEXT.encode({"id": "a", "audio": audio, "text": text}, encoding)
    rest, row = take(record, 9000, encoding)
    np.testing.assert_array_equal(row, np.pad(audio / np.float32(32768), (0, 9000 - count)))
    example = SPEECH_TEXT.decode_batch(tf.constant([rest]), row[None])
    assert example["text"].numpy()[0].decode() == text and example["num_samples"].numpy()[0] == count
    assert example["audio"].shape == (1, 9000) and len(rest) < len(text.encode()) + 200


def test_audio_that_cannot_be_taken_is_an_error():
    record = SPEECH_TEXT.encode({"id": "x", "audio": np.zeros(9), "text": ""})
    with pytest.raises(RecordError, match="9 samples of audio, expected at most 8, the bucket"):
        take(record, 8)
    with pytest.raises(RecordError, match="holds no audio laid out as tfhf"):
        take(record.replace(b"audio\x12", b"audit\x12"), 9)
