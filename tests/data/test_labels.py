"""Labels: numbers that are checked in the graph, and where their names come from."""

import json

import pytest
import tensorflow as tf

from tfhf.data.labels import (check_classes, check_model_labels, check_records_classes, check_trained_classes,
                              checked_label, class_names, known_classes, labels_file)
from tfhf.data.schema import RecordError
from tfhf.task import Task, TaskError


def test_numbers_are_checked_with_the_records_id():
    check = tf.function(lambda label: checked_label({"id": tf.constant("cat-7"), "label": label}, 3))
    assert check(tf.constant(2, tf.int64)) == 2 and check(tf.constant(0, tf.int64)).dtype == tf.int32
    for wrong in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"cat-7: the label is {wrong}, expected 0 to 2"):
            check(tf.constant(wrong, tf.int64))


def test_the_classes_of_a_manifest():
    manifest = {"options": {"classes": ["cat", "dog"]}}
    check_classes(manifest, "records", 2)
    check_classes(manifest, "records", 2, ("cat", "dog"))
    check_classes({"options": {}}, "records", 9, ("cat",))   # another writer, which names none
    with pytest.raises(RecordError, match="records: its records have 2 classes, but the task has 3"):
        check_classes(manifest, "records", 3)
    for names, message in ((("cat", "cow"), "records call class 1 'dog', but task.classes calls it 'cow'"),
                           (("dog", "cat"), "call class 0 'cat', .* calls it 'dog'; expected task.classes=cat,dog"),
                           (("Cat", "dog"), "call class 0 'cat', but task.classes calls it 'Cat'")):
        with pytest.raises(RecordError, match=message):
            check_classes(manifest, "records", 2, names)


def with_classes(*classes, records=()):
    task = Task(Task.Config())
    task.classes, task.record_classes = classes, records
    return task


def test_a_task_that_knows_numbers_alone_goes_by_the_names_of_what_it_was_trained_on():
    manifest = {"options": {"classes": ["cat", "dog"]}}
    check_records_classes(with_classes("0", "1"), manifest, "records")
    check_records_classes(with_classes(), manifest, "records")   # of a task without classes
    check_records_classes(with_classes("Katze", "Hund", records=("cat", "dog")), manifest, "records")
    check_records_classes(with_classes("cat", "dog"), {"options": {"classes": ["0", "1"]}}, "records")
    with pytest.raises(RecordError, match="class 0 'cat', but task.classes calls it 'dog'"):
        check_records_classes(with_classes("0", "1"), manifest, "records", ["dog", "cat"])
    with pytest.raises(RecordError, match="2 classes, but the task has 3"):
        check_records_classes(with_classes("0", "1", "2"), manifest, "records")


def test_a_checkpoint_of_other_classes():
    check_trained_classes(with_classes("a", "b"), [], "run/step-1")   # saved before names were kept
    check_trained_classes(with_classes("0", "1"), ["a", "b"], "run/step-1")
    check_trained_classes(with_classes("a", "b"), ["a", "b"], "run/step-1")
    with pytest.raises(TaskError, match="run/step-1 was trained with class 0 called 'b', .* expected task.classes=b,a"):
        check_trained_classes(with_classes("a", "b"), ["b", "a"], "run/step-1")
    with pytest.raises(TaskError, match="run/step-1 was trained on 3 classes, a,b,c; the task has 2"):
        check_trained_classes(with_classes("0", "1"), ["a", "b", "c"], "run/step-1")


def test_the_labels_of_a_pretrained_head(tmp_path):
    def put(**content):
        (tmp_path / "config.json").write_text(json.dumps(content))

    task = with_classes("negative", "positive")
    check_model_labels(task, tmp_path)   # without a config.json
    for content in ({}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
                    {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}, {"label_names": ["negative", "positive"]},
                    {"id2label": {"0": "0", "1": "1"}}):
        put(**content)
        check_model_labels(task, tmp_path)
    put(id2label={"1": "negative", "0": "positive"})
    with pytest.raises(TaskError, match="class 0 called 'positive', but task.classes calls it 'negative'"):
        check_model_labels(task, tmp_path)
    check_model_labels(with_classes("0", "1"), tmp_path)   # which claims no names
    put(label_names=["cat", "dog", "cow"])
    with pytest.raises(TaskError, match="trained on 3 classes, cat,dog,cow; the task has 2"):
        check_model_labels(task, tmp_path)


def test_names(tmp_path):
    assert class_names(("cat", "dog")) == ("cat", "dog") and class_names((), count=3) == ("0", "1", "2")
    (tmp_path / "names.json").write_text('["crane", "crane"]')   # ImageNet has two cranes
    assert class_names((), str(tmp_path / "names.json")) == ("crane", "crane")
    index = {"0": ["n01", "tench"], "1": ["n02", "shark"]}   # as Keras has for ImageNet
    (tmp_path / "names.json").write_text(json.dumps(index))
    assert labels_file(tmp_path / "names.json") == (("tench", "shark"), ("n01", "n02"))
    assert known_classes(with_classes("tench", "shark", records=("n01", "n02"))) == ("n01", "n02")
    for content, message in (('{"0": "cat"}', "expected a JSON list of names"), ("[1]", "expected a JSON list"),
                             ("{}", "expected a JSON"),
                             ('{"1": ["a", "b"]}', "expected a JSON"), ('{"0": ["a", 2]}', "expected a JSON"),
                             ("cat, dog", "is no JSON")):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(TaskError, match=message):
            class_names((), str(tmp_path / "names.json"))
    for classes in (("cat",), ("cat", "cat")):
        with pytest.raises(TaskError, match="two names or more, none of them twice"):
            class_names(classes)
