"""Batches: order, seek, buckets, weights, every example once."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.pipeline import evaluation_batches, example_seeds, padding_stats, training_batches
from tfhf.data.plan import PaddingStats, TrainingPlan, bucket_members, check_buckets, evaluation_plan
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.task import Task as AnyTask

COUNT = 57


class Task(AnyTask):
    record_type = SPEECH_TEXT
    reference_field = "text"
    batched = False

    def __init__(self, *buckets):
        self.buckets = buckets

    def preprocess(self, example, bucket, training):
        audio = tf.pad(example["audio"], [[0, bucket - tf.shape(example["audio"])[0]]])
        if len(self.buckets) == 1:
            assert isinstance(bucket, int)
            audio = tf.ensure_shape(audio, [bucket])
        inputs = {"audio": audio, "seed": example["seed"], "number": tf.strings.to_number(example["text"], tf.int32)}
        return inputs, example["num_samples"], tf.cast(example["num_samples"], tf.float32)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    with RecordWriter(out, "train", SPEECH_TEXT, shard_bytes=6000) as writer:
        for number in range(COUNT):
            audio = np.full(rng.integers(1, 1000), number / 100)
            writer.write({"id": f"id{number}", "audio": audio, "text": str(number)})
    return out


def take(dataset):
    """Dataset -> list of (numbers, seeds, audio, weights) in numpy"""
    return [(inputs["number"].numpy(), inputs["seed"].numpy(), inputs["audio"].numpy(), weight.numpy())
            for inputs, _, weight in dataset]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("buckets", [(1000,), (200, 500, 1000)])
def test_order_is_a_function_of_seed_and_step(records, buckets):
    def run(seed=3, start=0, steps=40):
        return take(training_batches(Task(*buckets), records, "train", batch_size=4, seed=seed, start_step=start,
                                     num_steps=steps))

    whole = run()
    assert_same(whole, run())
    for start in (1, 13, 14, 39):
        assert_same(whole[start:], run(start=start, steps=40 - start))
    assert not np.array_equal(np.stack([b[0] for b in whole]), np.stack([b[0] for b in run(seed=4)]))
    assert not np.array_equal(whole[0][0], whole[len(whole) // 2][0])
    for numbers, _, audio, _ in whole:   # the content belongs to the record; what is beyond it is padding
        assert audio.shape[1] in buckets
        np.testing.assert_allclose(audio[:, 0], numbers / 100, atol=1e-4)


def test_no_example_is_lost(records):
    task = Task(200, 500, 1000)
    counts = collections.Counter()
    for numbers, *_ in take(training_batches(task, records, "train", batch_size=8, seed=0, num_steps=COUNT)):
        counts.update(numbers.tolist())
    # 57 steps of 8 are 8 epochs; a bucket may be a batch ahead or behind.
    assert len(counts) == COUNT and sum(counts.values()) == 8 * COUNT
    assert min(counts.values()) >= 6 and max(counts.values()) <= 10


def test_an_epoch_holds_each_example_once_where_it_fits():
    members = [np.arange(0, 12), np.arange(12, 32)]
    plan = TrainingPlan(members, (5, 9), batch_size=4, seed=1)
    for epoch in range(3):
        numbers = np.concatenate([plan.batch(step).numbers for step in range(8 * epoch, 8 * epoch + 8)])
        assert sorted(numbers) == list(range(32))
        assert [plan.epoch_of(step) for step in (8 * epoch, 8 * epoch + 7)] == [epoch, epoch]


def test_plan_with_awkward_counts_agrees_with_counting_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(0, 30, rng.integers(1, 5)).tolist() + [1]
        starts = np.cumsum([0] + sizes)
        members = [np.arange(a, b) for a, b in zip(starts, starts[1:])]
        batch_size = int(rng.integers(1, 17))
        plan = TrainingPlan(members, range(1, len(members) + 1), batch_size, seed=2)
        seen = np.zeros(starts[-1], int)
        for step in range(60):
            batch = plan.batch(step)
            np.add.at(seen, batch.numbers, 1)
            assert len({int(np.searchsorted(starts, n, "right")) for n in batch.numbers}) == 1   # one bucket
            fresh = TrainingPlan(members, range(1, len(members) + 1), batch_size, seed=2)
            np.testing.assert_array_equal(fresh.batch(step).numbers, batch.numbers)
        for group in members:   # one may have been seen in this epoch, another be left from the last one: 2 apart
            assert not len(group) or np.ptp(seen[group]) <= 2


def test_far_steps_are_reached_at_once():
    plan = TrainingPlan([np.arange(100_003)], (1,), batch_size=256, seed=0)
    assert plan.epoch_of(10**9) == 256 * 10**9 // 100_003
    assert len(plan.batch(10**9).numbers) == 256


def test_one_bucket_gives_static_shapes_and_one_trace(records):
    dataset = training_batches(Task(1000), records, "train", batch_size=4, seed=0, num_steps=20)
    inputs, targets, weight = dataset.element_spec
    assert inputs["audio"].shape == (4, 1000) and targets.shape == (4,) and weight.shape == (4,)
    assert all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(dataset.element_spec))
    assert dataset.cardinality().numpy() == 20
    traces = []

    @tf.function
    def step(audio):
        traces.append(audio.shape)
        return tf.reduce_sum(audio)

    for inputs, _, _ in dataset:
        step(inputs["audio"])
    assert len(traces) == 1


def test_several_buckets_pad_no_further_than_needed(records):
    task = Task(200, 500, 1000)
    for inputs, lengths, _ in training_batches(task, records, "train", batch_size=4, seed=0, num_steps=40):
        width = inputs["audio"].shape[1]
        lower = {200: 0, 500: 200, 1000: 500}[width]
        assert all(lower < length <= width for length in lengths.numpy())


def test_weights_make_the_mean_over_the_global_batch(records):
    options = dict(batch_size=4, seed=0, num_steps=10)
    for _, lengths, weight in training_batches(Task(1000), records, "train", **options):
        lengths = lengths.numpy()
        np.testing.assert_allclose(weight.numpy(), lengths * 4 / lengths.sum(), rtol=1e-6)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_give_the_global_batch(records, hosts):
    options = dict(batch_size=8, seed=5, start_step=3, num_steps=12, normalise_weights=False)
    task = Task(200, 500, 1000)
    whole = take(training_batches(task, records, "train", **options))
    parts = [take(training_batches(task, records, "train", num_hosts=hosts, host_index=host, **options))
             for host in range(hosts)]
    assert_same(whole, [tuple(np.concatenate(arrays) for arrays in zip(*batches)) for batches in zip(*parts)])


def test_hosts_cannot_normalise_weights_they_do_not_know(records):
    with pytest.raises(ValueError, match="normalise_weights=True with 2 hosts"):
        training_batches(Task(1000), records, "train", batch_size=8, seed=0, num_hosts=2, normalise_weights=True)
    with pytest.raises(ValueError, match="multiple of the 3 hosts"):
        training_batches(Task(1000), records, "train", batch_size=8, seed=0, num_hosts=3)


@pytest.mark.parametrize("buckets", [(1000,), (200, 500, 1000)])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_evaluation_sees_each_example_once(records, buckets, batch_size):
    dataset = evaluation_batches(Task(*buckets), records, "train", batch_size=batch_size)
    seen, batches = [], 0
    for batch in dataset:
        batches += 1
        real = batch["real"].numpy()
        assert len(real) == batch_size == batch["inputs"]["audio"].shape[0]
        np.testing.assert_array_equal(batch["weight"].numpy() > 0, real)
        np.testing.assert_array_equal(batch["weight"].numpy()[real], batch["targets"].numpy()[real])
        seen += [(key.decode(), text.decode()) for key, text in
                 zip(batch["id"].numpy()[real], batch["reference"].numpy()[real])]
    assert sorted(seen) == sorted((f"id{n}", str(n)) for n in range(COUNT))
    assert batches == dataset.cardinality().numpy()


def test_too_long_records_are_named_or_counted(records, capsys):
    message = r"train-0000\d.tfrecord: record \d+, id 'id\d+': length \d+, expected at most 300"
    with pytest.raises(RecordError, match=message):
        training_batches(Task(300), records, "train", batch_size=4, seed=0)
    dataset = evaluation_batches(Task(300), records, "train", batch_size=4, drop_longer=True)
    seen = sum(int(batch["real"].numpy().sum()) for batch in dataset)
    assert 0 < seen < COUNT
    assert f"{COUNT - seen} of {COUNT} records are longer than 300" in capsys.readouterr().out


def test_seeds_differ_by_example_and_step_and_repeat(records):
    run = take(training_batches(Task(1000), records, "train", batch_size=4, seed=3, num_steps=30))
    seeds = np.concatenate([batch[1] for batch in run])
    assert len(np.unique(seeds, axis=0)) == 120
    np.testing.assert_array_equal(seeds, example_seeds(3, np.arange(120)))
    assert not np.array_equal(example_seeds(3, np.arange(9)), example_seeds(4, np.arange(9)))


def test_padding_is_known_from_the_index(records):
    task = Task(200, 500, 1000)
    stats = padding_stats(task, records, "train")
    dataset = evaluation_batches(task, records, "train", batch_size=1)
    padded = sum(batch["inputs"]["audio"].shape[1] for batch in dataset)
    assert (stats.examples, stats.padded) == (COUNT, padded)
    assert PaddingStats.of([50, 100], (100,)).fraction == 0.25


def test_damage_reaches_the_reader_of_the_dataset(records, tmp_path):
    with RecordWriter(tmp_path, "train", SPEECH_TEXT) as writer:
        for number in range(8):
            writer.write({"id": f"id{number}", "audio": np.full(100, 0.1), "text": str(number)})
    path = tmp_path / "train" / "train-00000.tfrecord"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="train-00000.tfrecord: record 7: its data are damaged"):
        list(evaluation_batches(Task(100), tmp_path, "train", batch_size=4))


def test_bad_arguments(records):
    for buckets in ((), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="buckets"):
            check_buckets(buckets)
    with pytest.raises(ValueError, match="start_step is -1"):
        training_batches(Task(1000), records, "train", batch_size=4, seed=0, start_step=-1)
    with pytest.raises(RecordError, match="as short as"):
        bucket_members(np.array([5]), (3,), drop_longer=True, name_of=str)
    assert [b.real.sum() for b in evaluation_plan([np.arange(5)], np.arange(5), (9,), 2)] == [2, 2, 1]
