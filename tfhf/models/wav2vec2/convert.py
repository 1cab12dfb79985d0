"""wav2vec2's weights: Hugging Face folders both ways."""

import json
from dataclasses import replace

from tfhf import weights
from tfhf.models.processing import extractor_settings
from tfhf.models.wav2vec2.config import Wav2Vec2Config

# The weight norm of the positional convolution: ours (torch's old spelling), and what torch writes today.
_SPELLINGS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Parts that belong to no model here, or to the head of another one; passed over only where a new head is asked for.
HEADS = ("lm_head.", "projector.", "classifier.", "layer_weights", "quantizer.", "project_q.", "project_hid.")


def with_extractor_settings(config, folder):
    """The config with `do_normalize` as the folder's feature extractor has it."""
    return replace(config, do_normalize=extractor_settings(folder).get("do_normalize", config.do_normalize))


def write_extractor_settings(config, folder):
    """Writes preprocessor_config.json."""
    from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor(16000, config.do_normalize).save_pretrained(folder)


def our_spelling(tensors):
    """{name: tensor} of a file with the old names of the weight norm, which are ours."""
    return _renamed(tensors, {theirs: ours for ours, theirs in _SPELLINGS.items()})


def their_spelling(tensors):
    """{name: tensor} of ours with the names of the weight norm that torch writes today."""
    return _renamed(tensors, _SPELLINGS)


def _renamed(tensors, spellings):
    found = {}
    for name, value in tensors.items():
        for old, new in spellings.items():
            name = name.replace(old, new)
        found[name] = value
    return found


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


def read_config(path):
    """The `Wav2Vec2Config` of a Hugging Face folder or hub id, without its weights.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it. ValueError: it is of another model.
    """
    file = weights.local_folder(path, allow_patterns=("*.json",)) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{file}: not there; expected a folder as save_pretrained writes it.")
    return Wav2Vec2Config.from_hugging_face(json.loads(file.read_text("utf-8")), file)
