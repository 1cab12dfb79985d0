"""What the ported models share: configs with published sizes, and folders in Hugging Face's layout, both ways."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import keras

from tfhf import weights
from tfhf.config import Config
from tfhf.torch_files import read_weights

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin")
# What lies beside a model in its folder and goes on with it: how its inputs are made, and how it generates.
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
              "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
              "preprocessor_config.json", "processor_config.json", "generation_config.json")
_MOST_NUMBER, _MOST_LAYERS, _MOST_VALUES = 1 << 24, 1_000, 1_000
_MOST_PARAMETERS = 10**12
_MAY_BE_ZERO = ("layers", "n_layer", "depths", "blocks", "min_masks", "mask_time_length", "mask_feature_length")
_SHARES = ("dropout", "pdrop", "_prob", "layerdrop")


def _check_number(name, value):
    """ValueError for what no model has: the field's name says what may stand there."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: got {value}; expected a finite number.")
        if any(part in name for part in _SHARES) and not 0 <= value <= 1:
            raise ValueError(f"{name}: got {value}; expected 0 <= value <= 1.")
    elif type(value) is int and not name.endswith("_id"):
        least = 0 if any(part in name for part in _MAY_BE_ZERO) else 1
        most = _MOST_LAYERS if "layers" in name or name == "n_layer" or "depths" in name else _MOST_NUMBER
        if not least <= value <= most:
            raise ValueError(f"{name}: got {value}; expected {least} <= value <= {most:,}.")
    elif type(value) is int and not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{name}: got {value}; expected the id of a token.")


@dataclass(frozen=True)
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

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if len(values) > _MOST_VALUES and field.name != "labels":
                raise ValueError(f"{field.name}: got {len(values)} values; expected at most {_MOST_VALUES:,}.")
            for each in values:
                _check_number(field.name, each)
        labels = getattr(self, "labels", ())
        if labels and len(labels) != self.num_labels:
            raise ValueError(f"labels: got {len(labels)} names; expected num_labels={self.num_labels}.")

    def least_parameters(self) -> int:
        """A number that the model's parameters are not fewer than, without making them: what a config asks for is
        compared with what its checkpoint has before anything is allocated."""
        return 0

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
        kind = content.get("model_type")
        if kind is None and "architecture" in content:
            raise ValueError(f"{where}: architecture is {content['architecture']!r}; expected model_type "
                             f"{cls.model_type!r}.")
        if kind is None and content:   # files of before 2020 have none; the tensors' names are compared all the same
            weights.say(f"{where}: has no model_type; it is read as {cls.model_type!r}.")
        elif kind != cls.model_type:
            raise ValueError(f"{where}: model_type is {kind!r}; expected {cls.model_type!r}.")
        for key, expected in cls.fixed.items():
            if content.get(key, expected) != expected:
                raise ValueError(f"{where}: {key} is {content[key]!r}; this port has only {expected!r}.")
        known = {field.name for field in fields(cls)} - set(cls.own) - {"labels"}
        found = {**cls.their_defaults, **{key: value for key, value in content.items() if key in known}}
        if "num_labels" in known and content.get("id2label"):
            names = label_names(content["id2label"], where)
            found.setdefault("num_labels", len(names))
            if len(names) == found["num_labels"] and names != _numbered(len(names)):
                found["labels"] = names
        try:
            config = cls.from_dict(found, where=str(where))
            size = config.least_parameters()
        except ValueError as error:
            begin = "" if str(error).startswith(str(where)) else f"{where}: "
            raise ValueError(f"{begin}{error}") from error
        if size > _MOST_PARAMETERS:
            raise ValueError(f"{where}: asks for {size:,} parameters or more; expected at most {_MOST_PARAMETERS:,}.")
        return config

    def changed(self, **changes):
        """The config with other values; names of labels stay only with a number of labels that fits."""
        if changes.get("num_labels", getattr(self, "num_labels", None)) != getattr(self, "num_labels", None):
            changes.setdefault("labels", ())
        return replace(self, **changes)

    def to_hugging_face(self, architecture: str) -> dict:
        """The content of config.json for a model of class `architecture`; without names labels are LABEL_0 …"""
        content = {"architectures": [architecture], "model_type": self.model_type, **self.fixed, **self.to_dict()}
        labels = content.pop("labels", ())
        if "num_labels" in content:
            names = tuple(labels) or _numbered(content["num_labels"])
            del content["num_labels"]
            content |= {"id2label": {str(i): name for i, name in enumerate(names)},
                        "label2id": {name: i for i, name in enumerate(names)}}
        return {key: value for key, value in content.items() if key not in self.own}


def label_names(id2label, where) -> tuple[str, ...]:
    """The names of labels in their order, out of a config.json's id2label, {"0": name, "1": name …}.

    Args:
        id2label: of the file.
        where: the file, for the error.

    Raises:
        ValueError: it is no such dict, a number is missing, or two labels have one name.
    """
    if not isinstance(id2label, dict):
        raise ValueError(f"{where}: id2label is a {type(id2label).__name__}; expected numbers with their labels.")
    names = {str(key): str(value) for key, value in id2label.items()}
    missing = next((number for number in range(len(names)) if str(number) not in names), None)
    if missing is not None:
        raise ValueError(f"{where}: id2label has {len(names)} labels and no number {missing}; expected 0, 1, 2 …")
    return tuple(names[str(number)] for number in range(len(names)))


def _numbered(count):
    return tuple(f"LABEL_{number}" for number in range(count))


class ExportableModel(keras.Model):
    """A Keras model that is built when it is made, and remembers what it was first called with, so that Keras' own
    `export` knows the model's inputs. Keras itself learns them from `build`, which gets none here."""

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        if getattr(self, "_first_inputs", None) is None and args:
            object.__setattr__(self, "_first_inputs", keras.tree.map_structure(_spec, args[0]))
        return outputs

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """See `keras.Model.export`; without a signature, for inputs as in the first call, the batch of any size.

        Raises:
            ValueError: no signature is given, and the model has never been called.
        """
        if input_signature is None:
            if getattr(self, "_first_inputs", None) is None:
                raise ValueError(f"{self.name}: export: got no input_signature, and the model has never been called; "
                                 "call it once, or give the signature.")
            input_signature = [self._first_inputs]
        return super().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)


def _spec(value):
    """Of an array or tensor: its shape with a batch of any size, and its dtype."""
    shape = tuple(value.shape)
    return keras.InputSpec(shape=(None, *shape[1:]), dtype=keras.backend.standardize_dtype(value.dtype))


class PreTrainedModel(ExportableModel):
    """Base of the models: a plain Keras model, made from `config`, that reads and writes Hugging Face's folders.

    Class attributes: `config_class`; `base_model_prefix`, the attribute that holds all but the heads, and the prefix of
    its tensors' names; `is_base`, whether the class is that part alone, whose files have no prefix; `aliases`, {name in
    a file: name that it is tied to}; `head_prefixes`, names of tensors of any head, passed over only where a new head
    is asked for; `dispensable`, names of tensors that a file may lack: they begin anew then, and a line says so;
    `head_is_vocabulary`, whether a new head means another vocabulary, so that the tokenizer's files belong to the old.
    """

    config_class: ClassVar[type] = PretrainedConfig
    base_model_prefix: ClassVar[str] = ""
    is_base: ClassVar[bool] = False
    aliases: ClassVar[dict] = {}
    head_prefixes: ClassVar[tuple] = ()
    dispensable: ClassVar[tuple] = ()
    head_is_vocabulary: ClassVar[bool] = False
    pretrained_folder = None  # where the weights came from
    has_own_vocabulary = False

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
        """Model with the weights of a Hugging Face folder or hub id: model.safetensors or pytorch_model.bin.

        A head that a file has nothing of begins anew, and so does what else the file may lack; a line on stderr names
        all that does.

        Args:
            path: the folder or hub id.
            new_head: take only the base model from there, whatever heads there are, and begin with a new head.
            changes: fields of the config that differ; and `name` or `dtype` of the model.

        Raises:
            tfhf.weights.WeightsError: a tensor is missing, left over or of another shape.
            FileNotFoundError: the folder has no weights of a known format.
            ValueError: the folder is of another kind of model, or its config asks for more than its weights are.
        """
        folder = weights.local_folder(path, allow_patterns=FILES)
        config, tensors = cls.read_folder(folder)
        known = {field.name for field in fields(config)}
        config = config.changed(**{key: value for key, value in changes.items() if key in known})
        _check_size(config, tensors, folder)
        model = cls(config, **{key: value for key, value in changes.items() if key not in known})
        tensors = model.own_tensors(tensors, new_head)
        base = getattr(model, cls.base_model_prefix) if new_head else model
        fresh = [] if weights.are_left_out() else model.begin_anew(tensors, new_head)
        weights.assign_reference_weights(base, tensors, where=folder, aliases=cls.aliases)
        if fresh:
            some = f"{', '.join(fresh[:6])}{' …' if len(fresh) > 6 else ''}"
            weights.say(f"{folder}: {cls.__name__}: {some} {'begins' if len(fresh) == 1 else 'begin'} with random "
                        "values, to be trained; the checkpoint has none, or a new head was asked for.")
        model.pretrained_folder = str(folder)
        model.has_own_vocabulary = cls.head_is_vocabulary and (new_head or "vocab_size" in changes)
        return model

    def begin_anew(self, tensors: dict, new_head: bool) -> list[str]:
        """Puts the model's own initial values in the place of what a file may lack; returns the names of all that
        begins anew.

        Args:
            tensors: {our name: tensor} of the file, to which the initial values are added.
            new_head: whether a new head was asked for: it begins anew anyway.
        """
        own = weights.reference_variables(self)
        missing = [name for name in own if name not in tensors]
        head = [name for name in own if not name.startswith(f"{self.base_model_prefix}.")]
        if self.is_base or not self.base_model_prefix:
            head = []
        left_over = any(name.startswith(self.head_prefixes) for name in tensors) if self.head_prefixes else True
        fresh_head = head if new_head or (not left_over and set(head) <= set(missing)) else []
        fresh = [name for name in missing if name.startswith(self.may_lack(bool(fresh_head)))]
        if not new_head:
            fresh += [name for name in fresh_head if name not in fresh]
        tensors.update({name: weights.reference_value(own[name]) for name in fresh})
        return list(dict.fromkeys([*fresh, *fresh_head]))

    def may_lack(self, new_head: bool) -> tuple:
        """Beginnings of the names of tensors that a file may lack; `new_head`: if the head begins anew."""
        return self.dispensable

    def save_pretrained(self, folder):
        """Writes config.json and model.safetensors, which `transformers` loads; and the files of the tokenizer and the
        processor that lay beside the weights this model began with, where the folder has none of its own."""
        folder = Path(folder)
        weights.write_safetensors(folder, self.reference_tensors())
        weights.write_json(folder / "config.json", self.config.to_hugging_face(type(self).__name__))
        copy_companions(self, folder)

    @classmethod
    def read_folder(cls, folder: Path) -> tuple:
        """(config, {name in the file: tensor}) of a folder."""
        path = folder / "config.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: is missing; expected a folder as save_pretrained writes it.")
        config = cls.config_class.from_hugging_face(weights.read_json(path), path)
        return config, read_weights(folder)

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


def _check_size(config, tensors, folder):
    """Before a model is allocated: a config that asks for far more than its checkpoint has is damaged or hostile. What
    is a little wrong is told in detail later, by the tensors' shapes."""
    least, count = config.least_parameters(), sum(value.size for value in tensors.values())
    if not weights.are_left_out() and least > 4 * count + 10_000_000:
        raise weights.WeightsError(f"{folder}: config.json asks for {least:,} parameters or more; the checkpoint has "
                                   f"{count:,}.")


def copy_companions(model, folder):
    """Copies the `COMPANIONS` from where a model's weights came from, but for files that the folder has already."""
    source = getattr(model, "pretrained_folder", None)
    if source is None or model.has_own_vocabulary:
        return
    for name in COMPANIONS:
        if (Path(source) / name).is_file() and not (Path(folder) / name).exists():
            shutil.copyfile(Path(source) / name, Path(folder) / name)
