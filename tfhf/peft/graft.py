"""New parts in the layers of a model that is built already, without touching its code.

A layer gets a class that derives from its own: it stays the same object, under the same name, with the same variables,
wherever the model keeps it. Replacing it by a wrapper would miss the places that hold on to it (lists of heads,
functions of a decoder), and would change the paths that name the weights in a file.
"""

import contextlib
import functools
import re
import types

import keras

from tfhf import weights
from tfhf.peft.config import PeftError


class Graft:
    """Marks the classes made here."""


@functools.cache
def _grown(kind, mixin):
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind, Graft), {})


def graft(layer, mixin, layers=(), **attributes):
    """Makes `layer` one of `mixin` as well, a class whose methods come before those of its own.

    Args:
        layer: a built layer.
        mixin: the class.
        layers: names among `attributes` that are layers, built already, whose variables become `layer`'s own.
        attributes: to set.

    Raises:
        PeftError: the layer has been grafted before.
    """
    if isinstance(layer, Graft):
        raise PeftError(f"{module_name(layer)} has an adapter already; merge_and_unload() it first.")
    layer._tracker.unlock()  # as Keras' own Dense.enable_lora does
    for name, value in attributes.items():
        if name in layers:
            setattr(layer, name, value)
        else:
            object.__setattr__(layer, name, value)  # not to be taken for a part of the layer
    layer._tracker.lock()
    object.__setattr__(layer, "_parts", (type(layer), tuple(attributes), tuple(layers)))
    object.__setattr__(layer, "__class__", _grown(type(layer), mixin))


def ungraft(layer):
    """Undoes `graft`."""
    kind, attributes, layers = layer._parts
    object.__setattr__(layer, "__class__", kind)
    layer._tracker.unlock()
    for name in layers:
        layer._tracker.untrack(getattr(layer, name))
    layer._tracker.lock()
    for name in (*attributes, "_parts"):
        (delattr if name in layers else object.__delattr__)(layer, name)


@contextlib.contextmanager
def plain_classes(model):
    """A context in which the grafted layers of a model are of their own classes, as Keras writes them into a config."""
    grown = {layer: type(layer) for layer in model._flatten_layers() if isinstance(layer, Graft)}
    for layer in grown:
        object.__setattr__(layer, "__class__", layer._parts[0])
    try:
        yield
    finally:
        for layer, kind in grown.items():
            object.__setattr__(layer, "__class__", kind)


def forget_compiled(model):
    """Leaves out the functions that `tfhf.decoding.compile` keeps with a model: they hold its old graph."""
    model.__dict__.pop("_compiled_functions", None)


def module_name(layer) -> str:
    """A built layer's name in the reference's modules: `m/decoder/layers_0/fc1` -> `decoder.layers.0.fc1`."""
    return weights.reference_name(types.SimpleNamespace(path=f"{layer.path}/weight")).removesuffix(".weight")


def modules(model) -> dict:
    """{name in the reference's modules: layer} of all built layers, the numbers in the names in their order: Keras' own
    is another."""
    found = {module_name(layer): layer for layer in model._flatten_layers(include_self=False) if layer.path}
    numbered = {name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in found}
    return {name: found[name] for name in sorted(found, key=numbered.get)}


@contextlib.contextmanager
def inside(layer):
    """A context in which new variables get their names inside those of a built layer."""
    with contextlib.ExitStack() as scopes:
        for folder in layer.path.split("/"):
            scopes.enter_context(keras.name_scope(folder))
        yield
