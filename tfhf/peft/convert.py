"""Adapters in the `peft` library's folders: adapter_config.json and adapter_model.safetensors, or adapter_model.bin."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
from keras import ops

from tfhf import weights
from tfhf.models.pretrained import PreTrainedModel, copy_companions
from tfhf.peft.config import PEFT_CONFIGS, LoraConfig, PeftError
from tfhf.peft.places import places_of
from tfhf.torch_files import read_weights

CONFIG, STEM, TABLE = "adapter_config.json", "adapter_model", "prompt_embeddings"
_TABLE_NAME = "embedding.weight"   # of virtual tokens, here
# Entries that say where an adapter came from or how it began, which changes nothing of what it computes; with each the
# kinds of value that it may have.
_OF_NO_EFFECT = {
    "peft_type": (str,), "peft_version": (str,), "inference_mode": (bool,), "auto_mapping": (dict,),
    "base_model_name_or_path": (str,), "revision": (str,), "fan_in_fan_out": (bool,), "megatron_core": (str,),
    "qalora_group_size": (int,), "eva_config": (dict,), "init_weights": (str,), "prompt_tuning_init": (str,),
    "prompt_tuning_init_text": (str,), "tokenizer_name_or_path": (str,), "tokenizer_kwargs": (dict,),
    "init_lora_weights": (bool, str), "token_dim": (int,), "num_attention_heads": (int,), "num_layers": (int,),
    "num_transformer_submodules": (int,)}
# The initial values of A and B that leave the base as it is. Of the others (pissa, pissa_niter_N, olora, corda, loftq,
# lora_ga) some part is taken out of the base's own weights, and what is in the file belongs to that base.
_INITIAL_VALUES = (True, False, "gaussian", "orthogonal", "eva", "mica")


def copy_tokenizer(base, folder):
    """Copies what lies beside the base model's weights; one that is not of the library has none."""
    if isinstance(base, PreTrainedModel):
        copy_companions(base, folder)


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
    copy_tokenizer(base, folder)


def from_pretrained(cls, base, path, is_trainable):
    """See `PeftModel.from_pretrained`."""
    folder = weights.local_folder(path, allow_patterns=(CONFIG, f"{STEM}*.safetensors*", f"{STEM}*.bin*"))
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder / CONFIG}: is missing; expected a folder as save_pretrained writes it.")
    content = weights.read_json(folder / CONFIG)
    config = read_config(content, base, folder / CONFIG)
    if is_trainable and content.get("init_lora_weights") == "mica":
        raise PeftError(f"{folder / CONFIG}: init_lora_weights is 'mica', which trains A alone; expected "
                        "is_trainable=False.")
    tensors = read_weights(folder, STEM, STEM)
    named = {_own_name(name, config, base, folder): value for name, value in tensors.items()}
    _check_rows(config, named, folder)
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


def _check_rows(config, tensors, folder):
    """WeightsError, before anything is made, if a config asks for another size than the file has."""
    for name, value in tensors.items():
        if isinstance(config, LoraConfig) and name.endswith("lora_A.weight") and value.shape[:1] != (config.r,):
            raise weights.WeightsError(f"{folder}: {name} has shape {value.shape}; r={config.r} in {CONFIG} expects "
                                       f"{config.r} rows.")
        if name == _TABLE_NAME and value.shape[:1] != (config.num_virtual_tokens,):
            raise weights.WeightsError(f"{folder}: {TABLE} has shape {value.shape}; {CONFIG} expects "
                                       f"num_virtual_tokens={config.num_virtual_tokens} rows.")


def read_config(content, base, where):
    """The `PeftConfig` from the dict of an adapter_config.json. Every entry of it is applied, has no effect on what the
    adapter computes, or is refused by its name.

    Args:
        content: of the file.
        base: the model it is for.
        where: the file, for the errors.

    Raises:
        PeftError: another method, another kind or size of model, or something that changes what the adapter computes
            and does not exist here.
    """
    kind = PEFT_CONFIGS.get(content.get("peft_type")) if isinstance(content.get("peft_type"), str) else None
    if kind is None:
        raise PeftError(f"{where}: peft_type is {content.get('peft_type')!r}; known are {', '.join(PEFT_CONFIGS)}.")
    known = {field.name for field in fields(kind)} - {"prompt_tuning_init"}
    for name, value in content.items():
        if name in _OF_NO_EFFECT:
            if value is not None and type(value) not in _OF_NO_EFFECT[name]:
                kinds = " or ".join(one.__name__ for one in _OF_NO_EFFECT[name])
                raise PeftError(f"{where}: {name} is {_shown(value)}; expected {kinds}.")
        elif name not in known and not _is_nothing(value) and (name, value) != ("bias", "none"):
            raise PeftError(f"{where}: {name} is {_shown(value)}; adapters here have no {name}.")
    _check_origin(content, base, where)
    _check_beginning(content, where)
    if kind is not LoraConfig:
        for name, own in _shape(base).items():
            if content.get(name, own) not in (own, None):
                raise PeftError(f"{where}: {name} is {content[name]}; {type(base).__name__} has {own}.")
        if content.get("num_transformer_submodules") not in (None, 1):
            raise PeftError(f"{where}: num_transformer_submodules is {content['num_transformer_submodules']}; adapters "
                            "here have 1, the decoder's.")
    return kind.from_dict({name: content[name] for name in known if content.get(name) is not None}, where=str(where))


def _is_nothing(value):
    """Whether an entry says that something is not used; 0 and "" may mean anything."""
    return value is None or value is False or value in ([], {})


def _shown(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _check_beginning(content, where):
    """How A and B, or virtual tokens, began."""
    begin = content.get("init_lora_weights", True)
    if begin is not None and begin not in _INITIAL_VALUES:
        raise PeftError(f"{where}: init_lora_weights is {begin!r}, which changes the base model's own weights, and "
                        "this adapter belongs to those; expected one of "
                        f"{', '.join(map(str, _INITIAL_VALUES))}. In peft, save_pretrained(folder, "
                        "path_initial_model_for_weight_conversion=…) writes one for the unchanged base.")
    for name, values in (("prompt_tuning_init", ("RANDOM", "TEXT", "SAMPLE_VOCAB")), ("init_weights", ("zero",))):
        if content.get(name) is not None and content[name] not in values:
            raise PeftError(f"{where}: {name} is {_shown(content[name])}; expected one of {', '.join(values)}.")


def _check_origin(content, base, where):
    """The kind of model that an adapter is for, which is an error where it is another; and the model's name, which may
    be one of many names of it: where it is another, a line says so."""
    library = (content.get("auto_mapping") or {}).get("parent_library") or ""
    if not isinstance(library, str):
        raise PeftError(f"{where}: auto_mapping names the library {_shown(library)}; expected text.")
    if library.startswith("transformers.models.") and library.split(".")[2] != _model_type(base):
        raise PeftError(f"{where}: the adapter is for {library.split('.')[2]}; the model is a {type(base).__name__}.")
    theirs, ours = (_last_part(name) for name in (content.get("base_model_name_or_path"),
                                                  getattr(base, "pretrained_folder", None)))
    if theirs and ours and theirs != ours:
        weights.say(f"{where}: the adapter was trained on {content['base_model_name_or_path']}; it is put on "
                    f"{base.pretrained_folder}.")
    if content.get("revision") not in (None, "", "main"):
        weights.say(f"{where}: the adapter was trained on revision {content['revision']} of its base model.")


def _last_part(name):
    """Of a path or hub id; of the hub's own folders …/models--owner--name/snapshots/HASH the name. "" of None."""
    found = re.search(r"models--(?:[^/]+--)?([^/]+)/snapshots/", name or "")
    return found[1] if found else (name or "").rstrip("/").rpartition("/")[2]


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
        return _TABLE_NAME
    if not name.startswith(theirs):
        raise weights.WeightsError(f"{folder}: the tensor {name!r} is none of an adapter; expected {theirs}…")
    return ours + name.removeprefix(theirs)
