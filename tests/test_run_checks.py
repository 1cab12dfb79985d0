"""What a run needs is checked before its first step; what it may change when it goes on is printed."""

import dataclasses
import errno
import os
import shutil
import types

import keras
import pytest

from tests import toy_task
from tfhf import checkpoints, run, run_checks
from tfhf.config import ConfigError
from tfhf.data import storage
from tfhf.data.records import RecordWriter
from tfhf.data.schema import RecordError
from tfhf.data.storage import StorageError
from tfhf.run_checks import check_evaluation, check_replicas, check_room, saves_after
from tfhf.strategy import Runtime


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    toy_task.write_records(folder / "records")
    return folder


def config_for(records, output, **changes):
    given = {"jit_compile": False, "evaluate_every": 0, "output": str(output), **changes}
    return toy_task.run_config(records, **given).override(["optimizer.schedule=constant"])


class NoModelTask(toy_task.ToyTask):
    """Building its model would come too late."""

    def build_model(self):
        raise AssertionError("the model was built before the run was checked")


@pytest.mark.parametrize("split, words", [
    ("test", r"test holds no records; .* one of the splits there \(train, validation\), or evaluate_every=0"),
    ("", "holds no records"),
    ("validation/x", "holds no records"),
])
def test_an_evaluation_split_that_is_missing(records, tmp_path, split, words):
    config = config_for(records, tmp_path / "run", evaluate_every=4).override([f"data.eval_split={split}"])
    with pytest.raises(ConfigError, match=words):
        run.train(NoModelTask, config)
    check_evaluation(toy_task.ToyTask(config.task), config.override(["evaluate_every=0"]))
    check_evaluation(toy_task.ToyTask(config.task), config.override(["evaluate_every=100"]))   # it never comes to it


def test_evaluation_records_that_do_not_fit(records, tmp_path):
    class ShortToyTask(toy_task.ToyTask):
        buckets = (6,)

    config = config_for(records, tmp_path / "run", evaluate_every=4)
    with pytest.raises(RecordError, match="longer"):
        check_evaluation(ShortToyTask(config.task), config)
    check_evaluation(ShortToyTask(config.task), config.override(["data.drop_longer=true"]))
    manifest = records / "records/validation/manifest.json"
    shutil.copytree(records / "records", tmp_path / "records")
    (tmp_path / "records/validation/manifest.json").write_text(manifest.read_text("utf-8")[:-20], "utf-8")
    with pytest.raises(RecordError, match="manifest.json"):
        check_evaluation(toy_task.ToyTask(config.task), config.override([f"data.path={tmp_path / 'records'}"]))


def a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


def below_a_file(tmp_path):
    return a_file(tmp_path) / "run"


def too_long_a_name(tmp_path):
    return tmp_path / ("x" * 300)


def a_circle_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    return tmp_path / "a/run"


@pytest.mark.parametrize("make, words", [
    (a_file, "a file stands where a folder is expected"),
    (below_a_file, "a file stands where a folder is expected"),
    (too_long_a_name, "choose a shorter name"),
    (a_circle_of_links, "its links lead in a circle"),
])
def test_an_output_that_is_no_folder(records, tmp_path, make, words):
    output = make(tmp_path)
    with pytest.raises(StorageError, match=words) as error:
        run.train(NoModelTask, config_for(records, output))
    assert "\n" not in str(error.value) and str(error.value).endswith("Then start the same command again")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_an_output_that_cannot_be_written(records, tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(storage.tempfile, "NamedTemporaryFile", refuse)
        with pytest.raises(StorageError, match=os.strerror(number)):
            run.train(NoModelTask, config_for(records, tmp_path / "run"))


def trainer_of(count, averages=False):
    """What has `count` float32 numbers, as many in the optimizer, and in the averages."""
    owner = types.SimpleNamespace(variables=[keras.Variable([0.0] * count)])
    return types.SimpleNamespace(model=owner, optimizer_state=owner, averages=owner if averages else None)


@pytest.mark.parametrize("averages, changes, existing, expected", [
    (False, {"checkpoint_every": 2, "keep_checkpoints": 3}, 0, 4),     # three, and the one that is being written
    (False, {"checkpoint_every": 2, "keep_checkpoints": 3}, 3, 1),
    (False, {"checkpoint_every": 2, "keep_checkpoints": 3}, 5, 1),
    (False, {"checkpoint_every": 2, "keep_checkpoints": 3, "keep_best": 2, "evaluate_every": 1}, 0, 6),
    (False, {"checkpoint_every": 0, "keep_checkpoints": 3}, 0, 1),     # one is all that is written
    (False, {"checkpoint_every": 5, "keep_checkpoints": 0}, 0, 3),     # at 5, 10 and 12, and none goes
    (True, {"checkpoint_every": 2, "keep_checkpoints": 1}, 0, 2),
])
def test_room_on_the_disk(records, tmp_path, monkeypatch, averages, changes, existing, expected):
    config = config_for(records, tmp_path / "run", **changes)
    for step in range(existing):
        folder = tmp_path / f"run/checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    trainer = trainer_of(1000, averages)
    size = 4000 * (3 if averages else 2)
    assert run_checks.checkpoint_bytes(trainer) == size
    monkeypatch.setattr(storage, "free_bytes", lambda folder: expected * size)
    check_room(trainer, config, 0)
    monkeypatch.setattr(storage, "free_bytes", lambda folder: expected * size - 1)
    with pytest.raises(StorageError, match=f"are free, expected .*: a checkpoint of this run takes .*, and {expected} "
                                           "more will lie there at once"):
        check_room(trainer, config, 0)
    monkeypatch.setattr(storage, "free_bytes", lambda folder: None)   # a disk that states no size
    check_room(trainer, config, 0)


@pytest.mark.parametrize("done, every, steps, expected", [(0, 5, 12, 3), (5, 5, 12, 2), (7, 5, 12, 2), (10, 5, 10, 1),
                                                          (0, 0, 12, 1), (0, 12, 12, 1), (11, 1, 12, 1)])
def test_how_many_checkpoints_are_to_come(records, tmp_path, done, every, steps, expected):
    assert saves_after(done, config_for(records, tmp_path, checkpoint_every=every, steps=steps)) == expected


def check_with(task, config, before, now):
    trainer = run.make_trainer(task, config, Runtime("none", None, 1, False))
    begun = {} if before is None else {"replicas": before}
    return check_replicas(trainer, config, dataclasses.replace(Runtime("none", None, 1, False), num_replicas=now),
                          begun, "RUN/step-00000005")


def test_another_number_of_replicas(records, tmp_path):
    config = config_for(records, tmp_path)
    task = toy_task.ToyTask(config.task)
    assert check_with(task, config, 2, 2) is None and check_with(task, config, None, 4) is None
    assert check_with(task, config, 2, 4) == 2   # nothing is drawn, so that the steps are the same
    random = toy_task.ToyTask(toy_task.ToyConfig(dropout=0.5))
    with pytest.raises(ConfigError, match="which has 4 replicas, but RUN/step-00000005 was trained with 2. Each .* in "
                                          "dropout.*expected 2 replicas, or any_replicas=true|Expected 2 replicas"):
        check_with(random, config, 2, 4)
    assert check_with(random, config.override(["any_replicas=true"]), 2, 4) == 2


def test_records_that_moved(records, tmp_path, capsys):
    """The same records elsewhere go on with the steps of the uninterrupted run; others are refused."""
    shutil.copytree(records / "records", tmp_path / "here")
    config = config_for(records, tmp_path / "run", steps=4, checkpoint_every=4).override(
        [f"data.path={tmp_path / 'here'}"])
    run.train(toy_task.ToyTask, config)
    (tmp_path / "here").rename(tmp_path / "there")
    longer = config.override(["steps=8", f"data.path={tmp_path / 'there'}"])
    moved = run.train(toy_task.ToyTask, longer)
    assert f"the records are now in {tmp_path / 'there'}, before in {tmp_path / 'here'}" in capsys.readouterr().err
    straight = run.train(toy_task.ToyTask, longer.override([f"output={tmp_path / 'straight'}"]))
    assert moved["loss"] == straight["loss"] and moved["start_step"] == 4
    with RecordWriter(tmp_path / "other", "train", toy_task.SERIES) as writer:
        for example in toy_task.examples(50, seed=7):
            writer.write(example)
    with pytest.raises(ConfigError, match="now holds 50 records with the fingerprints .* was trained on 50 with"):
        run.train(toy_task.ToyTask, longer.override(["steps=12", f"data.path={tmp_path / 'other'}"]))
    assert checkpoints.latest_checkpoint(longer.output)[0] == 8
