"""Labels of records, numbers of classes: their check in a task's `preprocess`, their names, and who else has them.

A number means what its name says only while records, task, labels file and model agree on the order of the names.
"""

import json
import os
import re

import tensorflow as tf

from tfhf.data import storage
from tfhf.data.schema import RecordError
from tfhf.task import TaskError


def class_names(classes, file="", count=0):
    """The names of a task's classes, in the order of the records' numbers: `classes`; else those of `file` (see
    `labels_file`); else the numbers below `count`.

    Raises:
        TaskError: fewer than two, or one twice; what `labels_file` refuses. (A file may have one twice, as ImageNet's,
            where two classes are cranes.)
    """
    names = tuple(classes) or tuple(map(str, range(count)))
    if file:
        shown, _ = labels_file(file)
        if classes:
            raise TaskError(f"task.classes_file: {file}, expected no task.classes beside it")
        return shown
    if len(names) < 2 or len(set(names)) < len(names):
        raise TaskError(f"task.classes: got {names}, expected two names or more, none of them twice")
    return names


def labels_file(file):
    """A JSON file of class names, local or gs:// -> (names to show, names in the records), by number.

    It holds a list, ["cat", "dog"]: both are the same. Or it is an index such as Keras has for ImageNet,
    {"0": ["n01440764", "tench"], ...}: the name in the records, which is the folder's, and the name to show.

    Raises:
        TaskError: it is neither.
    """
    try:
        content = json.loads(storage.read_bytes(file))
    except ValueError as error:
        raise TaskError(f"task.classes_file: {file} is no JSON: {error}") from error
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        return tuple(content), tuple(content)
    if isinstance(content, dict) and set(content) == set(map(str, range(len(content)))):
        pairs = [content[str(number)] for number in range(len(content))]
        if pairs and all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs):
            known, shown = zip(*pairs)
            return shown, known
    raise TaskError(f"task.classes_file: {file}, expected a JSON list of names, or an index such as "
                    '{"0": ["n01440764", "tench"], ...}')


def known_classes(task):
    """The names of a task's classes as its records have them; () where it knows none, or numbers alone."""
    names = tuple(task.record_classes or task.classes)
    return () if names == tuple(map(str, range(len(names)))) else names


def check_records_classes(task, manifest, folder, trained=()):
    """Raises RecordError: the records in `folder` have other classes than the task, or the same in another order.

    Args:
        trained: names that stand in for the task's where it knows none: those of other records that go with these.
    """
    if task.classes:
        check_classes(manifest, folder, len(task.classes), known_classes(task) or trained)


def manifest_classes(manifest):
    """The names of the classes that a manifest has; () where its writer named none, or numbers alone."""
    names = tuple(manifest["options"].get("classes") or ())
    return () if names == tuple(map(str, range(len(names)))) else names


def check_classes(manifest, folder, count, names=()):
    """Raises RecordError: the manifest of the records in `folder` names other classes than a task has, which are
    `count`, and `names` if these are known as the records would have them."""
    theirs = manifest["options"].get("classes")
    if theirs is None:
        return
    if len(theirs) != count:
        raise RecordError(f"{folder}: its records have {len(theirs)} classes, but the task has {count}")
    if not manifest_classes(manifest):
        return
    for number, (their_name, our_name) in enumerate(zip(theirs, names)):
        if their_name != our_name:
            raise RecordError(f"{folder}: its records call class {number} {their_name!r}, but task.classes calls it "
                              f"{our_name!r}; expected task.classes={_listed(theirs)}")


def check_trained_classes(task, trained, where):
    """Raises TaskError: a model was trained on the classes `trained`, and the task has others, or another order.

    Args:
        trained: names by number; empty where they are not known.
        where: the checkpoint or folder that the model comes from.
    """
    ours = known_classes(task)
    if trained and task.classes and len(trained) != len(task.classes):
        raise TaskError(f"{where} was trained on {len(trained)} classes, {_listed(trained)}; the task has "
                        f"{len(task.classes)}")
    for number, (their_name, our_name) in enumerate(zip(trained, ours)):
        if their_name != our_name:
            raise TaskError(f"{where} was trained with class {number} called {their_name!r}, but task.classes calls it "
                            f"{our_name!r}; expected task.classes={_listed(trained)}")


def check_model_labels(task, folder):
    """Raises TaskError: config.json in a Hugging Face `folder` has an id2label (or timm's label_names) with other names
    than the task's classes, or in another order. Upper and lower case count as one; LABEL_0 and numbers are no names.
    """
    path = storage.join(folder, "config.json")
    if not storage.exists(path):
        return
    content = json.loads(storage.read_bytes(path))
    names = content.get("id2label") or content.get("label_names") or ()
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not names or not all(isinstance(name, str) for name in names):
        return
    if all(re.fullmatch(r"(LABEL_)?\d+", name) for name in names):
        return
    ours = known_classes(task)
    if [name.casefold() for name in names] != [name.casefold() for name in ours]:
        check_trained_classes(task, names, os.fspath(folder))


def _listed(names, most=20):
    return ",".join(names[:most]) + (f",… ({len(names)} in all)" if len(names) > most else "")


def checked_label(example, count):
    """The field `label` of a decoded record -> int32, the same shape.

    A number that is none of `count` classes is a RecordError, with the record's id, when the graph runs.
    """
    label, most = tf.cast(example["label"], tf.int32), count - 1
    wrong = tf.strings.join(["RecordError: ", example["id"], ": the label is ", tf.strings.as_string(label),
                             f", expected 0 to {most}, a number of task.classes"])
    with tf.control_dependencies([tf.debugging.Assert((label >= 0) & (label <= most), [wrong])]):
        return tf.identity(label)
