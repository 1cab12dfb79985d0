"""Labels of records, numbers of classes: their check in a task's `preprocess`, and their names."""

import json

import tensorflow as tf

from tfhf.data import storage
from tfhf.data.schema import RecordError
from tfhf.task import TaskError


def class_names(classes, file="", count=0):
    """The names of a task's classes, in the order of the records' numbers: `classes`; else those of `file`, a JSON
    list, local or gs://; else the numbers below `count`.

    Raises:
        TaskError: fewer than two, or one twice; of a file, no list of names. (A file may have one twice, as ImageNet's,
            where two classes are cranes.)
    """
    names = tuple(classes) or tuple(map(str, range(count)))
    if file:
        try:
            names = json.loads(storage.read_bytes(file))
        except ValueError as error:
            raise TaskError(f"task.classes_file: {file} is no JSON: {error}") from error
        if classes or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TaskError(f"task.classes_file: {file}, expected a JSON list of names, and no task.classes beside it")
        return tuple(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise TaskError(f"task.classes: got {names}, expected two names or more, none of them twice")
    return names


def check_classes(manifest, folder, count, names=()):
    """Raises RecordError: the manifest of the records in `folder` names other classes than a task has, which are
    `count`, and `names` if these are known as the records would have them."""
    theirs = manifest["options"].get("classes")
    if theirs is None:
        return
    if len(theirs) != count:
        raise RecordError(f"{folder}: its records have {len(theirs)} classes, but the task has {count}")
    for number, (theirs, ours) in enumerate(zip(theirs, names)):
        if theirs != ours:
            raise RecordError(f"{folder}: its records call class {number} {theirs!r}, but task.classes calls it "
                              f"{ours!r}")


def checked_label(example, count):
    """The field `label` of a decoded record -> int32, the same shape.

    A number that is none of `count` classes is a RecordError, with the record's id, when the graph runs.
    """
    label, most = tf.cast(example["label"], tf.int32), count - 1
    wrong = tf.strings.join(["RecordError: ", example["id"], ": the label is ", tf.strings.as_string(label),
                             f", expected 0 to {most}, a number of task.classes"])
    with tf.control_dependencies([tf.debugging.Assert((label >= 0) & (label <= most), [wrong])]):
        return tf.identity(label)
