"""What the ported models share: configs with published sizes, and folders in Hugging Face's layout, both ways."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import keras

from tfhf import weights
from tfhf.config import Config

FILES = ("*.json", "*.safetensors", "*.txt")


class PretrainedConfig(Config):
    """Base of a model's config; its fields are those of Hugging Face's config.json, and a few of our own.

    Class attributes: `model_type` in config.json; `sizes`, {published name: changes of the defaults}; `fixed`, entries
    of config.json that the port has in one form only, {name: value}; `own`, fields that Hugging Face does not know;
    `their_defaults`, what a config.json means that leaves a field out, where our default is another.
    """

    model_type: ClassVar[str] = ""
    sizes: ClassVar[dict] = {}
    fixed: ClassVar[dict] = {}
    own: ClassVar[tuple] = ("recompute_activations",)
    their_defaults: ClassVar[dict] = {}

    @classmethod
    def of_size(cls, name: str, **changes):
        """The published configuration called `name`, with `changes` of its fields.

        Raises:
            ValueError: no such size; with the known ones.
        """
        if name not in cls.sizes:
            raise ValueError(f"No {cls.model_type} size {name!r}; known: {', '.join(cls.sizes)}.")
        return cls(**{**cls.sizes[name], **changes})

    @classmethod
    def from_hugging_face(cls, content: dict, where):
        """The config from the dict of a config.json; entries that do not shape the model are passed over.

        Args:
            content: of the file.
            where: the file, for the errors.

        Raises:
            ValueError: the folder is of another model, or uses something this port does not have.
        """
        if content.get("model_type") != cls.model_type:
            raise ValueError(f"{where}: model_type is {content.get('model_type')!r}; expected {cls.model_type!r}.")
        for key, expected in cls.fixed.items():
            if content.get(key, expected) != expected:
                raise ValueError(f"{where}: {key} is {content[key]!r}; this port has only {expected!r}.")
        known = {field.name for field in fields(cls)} - set(cls.own)
        found = {**cls.their_defaults, **{key: value for key, value in content.items() if key in known}}
        if "num_labels" in known and "id2label" in content and "num_labels" not in found:
            found["num_labels"] = len(content["id2label"])
        return cls.from_dict(found, where=str(where))

    def to_hugging_face(self, architecture: str) -> dict:
        """The content of config.json for a model of class `architecture`; labels are called LABEL_0, LABEL_1 …"""
        content = {"architectures": [architecture], "model_type": self.model_type, **self.fixed, **self.to_dict()}
        if "num_labels" in content:
            names = {str(i): f"LABEL_{i}" for i in range(content.pop("num_labels"))}
            content |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
        return {key: value for key, value in content.items() if key not in self.own}


class PreTrainedModel(keras.Model):
    """Base of the models: a plain Keras model, made from `config`, that reads and writes Hugging Face's folders.

    Class attributes: `config_class`; `base_model_prefix`, the attribute that holds all but the heads, and the prefix of
    its tensors' names; `is_base`, whether the class is that part alone, whose files have no prefix; `aliases`, {name in
    a file: name that it is tied to}; `head_prefixes`, names of tensors of any head, passed over only where a new head
    is asked for.
    """

    config_class: ClassVar[type] = PretrainedConfig
    base_model_prefix: ClassVar[str] = ""
    is_base: ClassVar[bool] = False
    aliases: ClassVar[dict] = {}
    head_prefixes: ClassVar[tuple] = ()
    pretrained_folder = None  # where the weights came from

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, self.config_class):
            raise ValueError(f"{type(self).__name__}: got a config of type {type(config).__name__}; expected "
                             f"{self.config_class.__name__}.")
        self.config = config

    def get_config(self):
        return {"config": self.config.to_dict(), "name": self.name, "dtype": self.dtype_policy}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        return cls(cls.config_class.from_dict(config.pop("config")), **config)

    @classmethod
    def from_pretrained(cls, path, new_head=False, **changes):
        """Model with the weights of a Hugging Face folder or hub id.

        Args:
            path: the folder or hub id.
            new_head: take only the base model from there, whatever heads there are, and begin with a new head.
            changes: fields of the config that differ; and `name` or `dtype` of the model.

        Raises:
            tfhf.weights.WeightsError: a tensor is missing, left over or of another shape.
            FileNotFoundError: the folder has no weights of a known format.
            ValueError: the folder is of another kind of model.
        """
        folder = weights.local_folder(path, allow_patterns=FILES)
        config, tensors = cls.read_folder(folder)
        known = {field.name for field in fields(config)}
        config = replace(config, **{key: value for key, value in changes.items() if key in known})
        model = cls(config, **{key: value for key, value in changes.items() if key not in known})
        tensors = model.own_tensors(tensors, new_head)
        base = getattr(model, cls.base_model_prefix) if new_head else model
        weights.assign_reference_weights(base, tensors, where=folder, aliases=cls.aliases)
        model.pretrained_folder = str(folder)
        return model

    def save_pretrained(self, folder):
        """Writes config.json and model.safetensors, which `transformers` loads."""
        folder = Path(folder)
        weights.write_safetensors(folder, self.reference_tensors())
        weights.write_json(folder / "config.json", self.config.to_hugging_face(type(self).__name__))

    @classmethod
    def read_folder(cls, folder: Path) -> tuple:
        """(config, {name in the file: tensor}) of a folder."""
        path = folder / "config.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there; expected a folder as save_pretrained writes it.")
        config = cls.config_class.from_hugging_face(json.loads(path.read_text("utf-8")), path)
        return config, weights.read_safetensors(folder)

    def own_tensors(self, tensors: dict, new_head: bool) -> dict:
        """A file's tensors by our names: the prefix before what a bare model saved; `new_head`: without any head."""
        prefix = self.base_model_prefix + "."
        if not any(name.startswith(prefix) for name in tensors):
            tensors = {name if name.startswith(self.head_prefixes) else prefix + name: value
                       for name, value in tensors.items()}
        if new_head:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(self.head_prefixes)}
        return tensors

    def reference_tensors(self) -> dict:
        """{name in the file: tensor}: what `save_pretrained` writes."""
        tensors = weights.reference_weights(self)
        prefix = self.base_model_prefix + "."
        return {name.removeprefix(prefix): value for name, value in tensors.items()} if self.is_base else tensors
