"""wav2vec2's weights: Hugging Face folders both ways."""

import json
from dataclasses import fields, replace
from pathlib import Path

from tfhf import weights
from tfhf.models.processing import extractor_settings
from tfhf.models.wav2vec2.config import Wav2Vec2Config

# The weight norm of the positional convolution: ours (torch's old spelling), and what torch writes today.
_SPELLINGS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Parts that belong to no model here, or to the head of another one; passed over only where a new head is asked for.
HEADS = ("lm_head.", "projector.", "classifier.", "layer_weights", "quantizer.", "project_q.", "project_hid.")

# What a config.json means that leaves these out; our own defaults are the pretrained base's.
_THEIR_DEFAULTS = dict(activation_dropout=0.1, final_dropout=0.1, layerdrop=0.1)


def config_from_hugging_face(content, where):
    """Wav2Vec2Config from the dict of a Hugging Face config.json; fields that do not shape the model are passed over.

    Raises:
        ValueError: the folder is of another model, or uses something this port does not have.
    """
    if content.get("model_type") != "wav2vec2":
        raise ValueError(f"{where}: model_type is {content.get('model_type')!r}; expected 'wav2vec2'.")
    for key, expected in (("hidden_act", "gelu"), ("feat_extract_activation", "gelu"), ("add_adapter", False),
                          ("adapter_attn_dim", None)):
        if content.get(key, expected) != expected:
            raise ValueError(f"{where}: {key} is {content[key]!r}; this port has only {expected!r}.")
    known = {field.name for field in fields(Wav2Vec2Config)}
    found = {**_THEIR_DEFAULTS, **{key: value for key, value in content.items() if key in known}}
    if "id2label" in content and "num_labels" not in found:
        found["num_labels"] = len(content["id2label"])
    return Wav2Vec2Config.from_dict(found, where=str(where))


def from_pretrained(cls, path, new_head=False, **changes):
    """See `Wav2Vec2PreTrainedModel.from_pretrained`."""
    folder = weights.local_folder(path, allow_patterns=("*.json", "*.safetensors"))
    config_path = folder / "config.json"
    config = config_from_hugging_face(json.loads(config_path.read_text("utf-8")), config_path)
    config = replace(config, do_normalize=extractor_settings(folder).get("do_normalize", config.do_normalize))
    known = {field.name for field in fields(Wav2Vec2Config)}
    config = replace(config, **{key: value for key, value in changes.items() if key in known})
    model = cls(config, **{key: value for key, value in changes.items() if key not in known})
    tensors = _ours(weights.read_safetensors(folder))
    embed = "wav2vec2.masked_spec_embed"
    has_embed = hasattr(model.wav2vec2, "masked_spec_embed")
    if not has_embed:   # transformers keeps it where nothing is ever masked
        tensors.pop(embed, None)
    if new_head:
        tensors = {name: value for name, value in tensors.items() if not name.startswith(HEADS)}
        if has_embed:
            tensors.setdefault(embed, model.wav2vec2.masked_spec_embed.numpy())
    weights.assign_reference_weights(model.wav2vec2 if new_head else model, tensors, where=folder)
    model.pretrained_folder = str(folder)
    return model


def _ours(tensors):
    """Names as ours are: the old spelling of the weight norm, and `wav2vec2.` before what a bare model saved."""
    renamed = {}
    bare = not any(name.startswith("wav2vec2.") for name in tensors)
    for name, value in tensors.items():
        for ours, theirs in _SPELLINGS.items():
            name = name.replace(theirs, ours)
        renamed["wav2vec2." + name if bare else name] = value
    return renamed


def save_pretrained(model, folder):
    """See `Wav2Vec2PreTrainedModel.save_pretrained`."""
    folder, kind = Path(folder), type(model).__name__
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in weights.reference_weights(model).items():
        for ours, theirs in _SPELLINGS.items():
            name = name.replace(ours, theirs)
        tensors[name.removeprefix("wav2vec2.") if kind == "Wav2Vec2Model" else name] = value
    weights.write_safetensors(folder, tensors)
    config = model.config.to_dict()
    for name in ("recompute_activations", "do_normalize", "num_labels"):
        del config[name]
    labels = {str(i): f"LABEL_{i}" for i in range(model.config.num_labels)}
    weights.write_json(folder / "config.json", {
        "architectures": [kind], "model_type": "wav2vec2", "hidden_act": "gelu", "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(model.config.conv_dim), "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()}, **config})
    from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor(16000, model.config.do_normalize).save_pretrained(folder)


def tiny_config(**changes):
    """A wav2vec2 for tests: 4 convolutions (a frame each 160 samples), 2 layers of width 32, no dropout."""
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(32,) * 4,
                 conv_kernel=(10, 3, 3, 2), conv_stride=(5, 4, 4, 2), num_conv_pos_embeddings=16,
                 num_conv_pos_embedding_groups=4, num_codevectors_per_group=8, codevector_dim=16,
                 proj_codevector_dim=16, num_negatives=5, classifier_proj_size=16, hidden_dropout=0.0,
                 attention_dropout=0.0, layerdrop=0.0, apply_spec_augment=False)
    return Wav2Vec2Config(**{**shape, **changes})


def write_tiny_checkpoint(folder, cls=None, **changes):
    """Writes a random model of `tiny_config(**changes)`, a `Wav2Vec2ForCTC` or one of `cls`; returns the folder as str.

    For tests and for trying a pipeline: it has learnt nothing.
    """
    from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC

    (cls or Wav2Vec2ForCTC)(tiny_config(**changes)).save_pretrained(folder)
    return str(folder)


def small_config(**changes):
    """A wav2vec2 that learns on two CPU cores in minutes: four convolutions for seven, a frame each 320 samples all the
    same, 3 layers of width 128, no dropout."""
    shape = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512,
                 conv_dim=(32, 96, 128, 128), conv_kernel=(10, 8, 8, 4), conv_stride=(5, 4, 4, 4),
                 num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=8, do_stable_layer_norm=True,
                 hidden_dropout=0.0, attention_dropout=0.0, layerdrop=0.0)
    return Wav2Vec2Config(**{**shape, **changes})
