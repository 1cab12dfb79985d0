"""Adapters in the `peft` library's folders: adapter_config.json and adapter_model.safetensors."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
from keras import ops

from tfhf import weights
from tfhf.peft.config import PEFT_CONFIGS, LoraConfig, PeftError
from tfhf.peft.places import places_of

CONFIG, STEM, TABLE = "adapter_config.json", "adapter_model", "prompt_embeddings"
# Entries of a config that do not say what the adapter computes, or that hold what is checked elsewhere.
_PASSED_OVER = {"peft_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",
                "fan_in_fan_out", "init_lora_weights", "init_weights", "megatron_core", "qalora_group_size",
                "loftq_config", "token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules",
                "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}


class Adapter:
    """The variables of an adapter, in the place of a model for `tfhf.weights`."""

    def __init__(self, variables):
        self.weights = variables


def save_pretrained(model, folder):
    """See `PeftModel.save_pretrained`."""
    config, base = model.peft_config, model.base_model
    written = {"peft_type": config.peft_type, "inference_mode": True, "auto_mapping": None,
               "base_model_name_or_path": getattr(base, "pretrained_folder", None), **config.to_dict()}
    written["modules_to_save"] = list(config.whole_modules) or None
    kind = _model_type(base)
    if config.task_type is None and kind:
        written["auto_mapping"] = {"base_model_class": type(base).__name__,
                                   "parent_library": f"transformers.models.{kind}.modeling_{kind}"}
    if isinstance(config, LoraConfig):
        whole_alpha = float(config.lora_alpha).is_integer()
        written |= {"bias": "none", "lora_alpha": int(config.lora_alpha) if whole_alpha else config.lora_alpha,
                    "fan_in_fan_out": kind == "gpt2"}  # of the reference's layers, which GPT-2 has the other way round
    else:
        written |= {**_shape(base), "num_transformer_submodules": 1}
    tensors = {_file_name(name, config, base): value
               for name, value in weights.reference_weights(Adapter(model.adapter_variables())).items()}
    if model.prompt_encoder is not None:
        rows = model.prompt_encoder(ops.arange(config.num_virtual_tokens))
        tensors[TABLE] = np.asarray(ops.convert_to_numpy(ops.cast(rows, "float32")))
    weights.write_safetensors(folder, tensors, stem=STEM)
    weights.write_json(Path(folder) / CONFIG, written)


def from_pretrained(cls, base, path, is_trainable):
    """See `PeftModel.from_pretrained`."""
    folder = weights.local_folder(path, allow_patterns=(CONFIG, f"{STEM}*.safetensors*"))
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder / CONFIG}: not there; expected a folder as save_pretrained writes it.")
    config = read_config(json.loads((folder / CONFIG).read_text("utf-8")), base, folder / CONFIG)
    tensors = weights.read_safetensors(folder, stem=STEM)
    named = {_own_name(name, config, base, folder): value for name, value in tensors.items()}
    model = cls(base, config, table=True)
    table = [] if model.prompt_encoder is None else model.prompt_encoder.weights
    try:
        weights.assign_reference_weights(Adapter(model.adapter_variables() + table), named, where=folder)
    except weights.WeightsError:
        model.unload()
        raise
    if not is_trainable:
        for variable in model.trainable_variables:
            variable.trainable = False
    return model


def read_config(content, base, where):
    """The `PeftConfig` from the dict of an adapter_config.json.

    Args:
        content: of the file.
        base: the model it is for.
        where: the file, for the errors.

    Raises:
        PeftError: another method, another kind or size of model, or something that changes what the adapter computes
            and is not here.
    """
    kind = PEFT_CONFIGS.get(content.get("peft_type"))
    if kind is None:
        raise PeftError(f"{where}: peft_type is {content.get('peft_type')!r}; known are {', '.join(PEFT_CONFIGS)}.")
    library = (content.get("auto_mapping") or {}).get("parent_library", "")
    if library.startswith("transformers.models.") and library.split(".")[2] != _model_type(base):
        raise PeftError(f"{where}: the adapter is for {library.split('.')[2]}; the model is a {type(base).__name__}.")
    if kind is not LoraConfig:
        for name, own in _shape(base).items():
            if content.get(name, own) not in (own, None):
                raise PeftError(f"{where}: {name} is {content[name]}; {type(base).__name__} has {own}.")
    known = {field.name for field in fields(kind)} - {"prompt_tuning_init"}
    for name, value in content.items():
        if name not in known | _PASSED_OVER and value and (name, value) != ("bias", "none"):
            raise PeftError(f"{where}: {name} is {value!r}; adapters here have no {name}.")
    return kind.from_dict({name: content[name] for name in known if content.get(name) is not None}, where=str(where))


def _shape(base):
    places = places_of(base)
    return {name: getattr(base.config, field) for name, field in (
        ("token_dim", places.width), ("num_layers", places.layers), ("num_attention_heads", places.heads))}


def _model_type(base):
    """"gpt2" of a model with a GPT2Config; "" of one without such a config."""
    kind = type(getattr(base, "config", None)).__name__
    return kind.removesuffix("Config").lower() if kind.endswith("Config") else ""


def _prefixes(config, base):
    """What stands before a name in peft's file, and what of our names is not in it: a bare model's own prefix."""
    theirs = "base_model.model." if isinstance(config, LoraConfig) else "base_model."
    return theirs, base.base_model_prefix + "." if getattr(base, "is_base", False) else ""


def _file_name(name, config, base):
    theirs, ours = _prefixes(config, base)
    return theirs + name.removeprefix(ours)


def _own_name(name, config, base, folder):
    theirs, ours = _prefixes(config, base)
    if name == TABLE:
        return "embedding.weight"
    if not name.startswith(theirs):
        raise weights.WeightsError(f"{folder}: the tensor {name!r} is none of an adapter; expected {theirs}…")
    return ours + name.removeprefix(theirs)
