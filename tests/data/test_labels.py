"""Labels: numbers that are checked in the graph, and where their names come from."""

import pytest
import tensorflow as tf

from tfhf.data.labels import check_classes, checked_label, class_names
from tfhf.data.schema import RecordError
from tfhf.task import TaskError


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
    with pytest.raises(RecordError, match="records call class 1 'dog', but task.classes calls it 'cow'"):
        check_classes(manifest, "records", 2, ("cat", "cow"))


def test_names(tmp_path):
    assert class_names(("cat", "dog")) == ("cat", "dog") and class_names((), count=3) == ("0", "1", "2")
    (tmp_path / "names.json").write_text('["crane", "crane"]')   # ImageNet has two cranes
    assert class_names((), str(tmp_path / "names.json")) == ("crane", "crane")
    for content, message in (('{"0": "cat"}', "expected a JSON list of names"), ("[1]", "expected a JSON list"),
                             ("cat, dog", "is no JSON")):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(TaskError, match=message):
            class_names((), str(tmp_path / "names.json"))
    for classes in (("cat",), ("cat", "cat")):
        with pytest.raises(TaskError, match="two names or more, none of them twice"):
            class_names(classes)
