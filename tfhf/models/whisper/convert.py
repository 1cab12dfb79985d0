"""Whisper's weights: Hugging Face folders both ways, CTranslate2 folders in."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfhf import weights
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.special_tokens import LANGUAGES, TASKS, SpecialTokens

# Hugging Face writes the tied projection only when it was untied.
ALIASES = {"proj_out.weight": "model.decoder.embed_tokens.weight"}


def is_ctranslate2(folder: Path) -> bool:
    """Whether the weights of a folder are in CTranslate2's format."""
    return (folder / "model.bin").exists() and not any(folder.glob("*.safetensors*"))


def read_generation_config(config, folder):
    """The generation config of a folder, Hugging Face's or CTranslate2's; {} where it has none."""
    folder = Path(folder)
    if is_ctranslate2(folder):
        options = _read_json(folder / "config.json")
        found = {"suppress_tokens": options.get("suppress_ids"),
                 "begin_suppress_tokens": options.get("suppress_ids_begin")}
        return generation_config(config, {key: value for key, value in found.items() if value},
                                 read_special_tokens(folder))
    return _read_json(folder / "generation_config.json")


def read_special_tokens(folder):
    """Whisper's special tokens by the files of a folder: tokenizer.json, else the vocabulary's list of CTranslate2 or
    of Hugging Face, else generation_config.json; None where there are none of them.

    Raises:
        ValueError: a file is damaged or no Whisper's, or two of them do not agree.
    """
    folder = Path(folder)
    found = {}
    for name, read in _VOCABULARIES.items():
        if (folder / name).exists():
            tokens = read(folder)
            found[name] = SpecialTokens.of_tokens(tokens.get, folder / name)
            break
    told = SpecialTokens.of_generation_config(_read_json(folder / "generation_config.json"),
                                              folder / "generation_config.json")
    if told is not None:
        found["generation_config.json"] = told
    if len(found) == 2:
        (name, first), (other, second) = found.items()
        # Whether a vocabulary that nobody published is multilingual is not told by its tokens.
        first = replace(first, multilingual=second.multilingual) if first.end not in (50256, 50257) else first
        if first != second:
            raise ValueError(f"{folder}: {name} has {_summary(first)}, but {other} has {_summary(second)}; expected "
                             "the same. Take away the one that belongs to another model.")
        return first
    return next(iter(found.values()), None)


def _summary(special):
    kind = "multilingual" if special.multilingual else "English-only"
    return (f"<|endoftext|> {special.end}, <|startoftranscript|> {special.start}, <|notimestamps|> "
            f"{special.no_timestamps} ({special.num_languages} languages, {kind})")


def _read_json(path):
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:   # no JSON, or no UTF-8
        raise ValueError(f"{path}: is damaged, not JSON: {error}.") from error


def _tokenizer_tokens(folder):
    content = _read_json(folder / "tokenizer.json")
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return {**(content.get("model") or {}).get("vocab", {}), **added}


def _listed_tokens(lines):
    return {token: number for number, token in enumerate(lines)}


_VOCABULARIES = {
    "tokenizer.json": _tokenizer_tokens,
    "vocab.json": lambda folder: {**_read_json(folder / "vocab.json"), **_read_json(folder / "added_tokens.json")},
    "vocabulary.json": lambda folder: _listed_tokens(_read_json(folder / "vocabulary.json")),
    "vocabulary.txt": lambda folder: _listed_tokens((folder / "vocabulary.txt").read_text("utf-8").split("\n")),
}


def generation_config(config, more, special):
    """The generation_config.json that Hugging Face's `generate` wants for a model of this config and these special
    tokens (None: not known), with the entries `more`."""
    if special is None:
        return {"max_length": config.max_target_positions, "return_timestamps": False,
                "decoder_start_token_id": config.decoder_start_token_id, "eos_token_id": config.eos_token_id,
                "bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id, **more}
    content = {"is_multilingual": special.multilingual, "no_timestamps_token_id": special.no_timestamps,
               "prev_sot_token_id": special.start_of_previous, "max_initial_timestamp_index": 50,
               "max_length": config.max_target_positions, "return_timestamps": False,
               "decoder_start_token_id": special.start, "eos_token_id": special.end, "bos_token_id": special.end,
               "pad_token_id": special.end, **more}
    if special.multilingual:
        languages = LANGUAGES[:special.num_languages]
        content["lang_to_id"] = {f"<|{code}|>": special.language(code) for code in languages}
        content["task_to_id"] = {task: getattr(special, task) for task in TASKS}
    return content


def write_generation_config(model, folder):
    """Writes the model's generation_config.json."""
    generation = getattr(model, "generation_config", None)
    if not generation:
        generation = generation_config(model.config, {}, model.known_special_tokens())
    weights.write_json(Path(folder) / "generation_config.json", generation)


def write_tiny_checkpoint(folder):
    """Writes a random Whisper of 1 s windows and 1,767 byte-level tokens with its processor; returns the folder as str.

    For tests and for trying a pipeline: it has learnt nothing.
    """
    from tfhf.models.whisper.model import WhisperForConditionalGeneration
    from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
    from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json

    config = WhisperConfig(
        vocab_size=1767, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=2,
        decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=50, max_target_positions=64,
        eos_token_id=256, pad_token_id=256, bos_token_id=256, decoder_start_token_id=257)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer_json(Path(folder) / "tokenizer.json")
    tokenizer = WhisperTokenizer(Path(folder) / "tokenizer.json")
    WhisperProcessor(WhisperFeatureExtractor(80, config.max_samples), tokenizer).save_pretrained(folder)
    return str(folder)


def from_ctranslate2(folder):
    """(config, {Hugging Face's name: tensor}) of a CTranslate2 folder.

    Raises:
        tfhf.weights.WeightsError: the file is damaged, or not a whole Whisper.
    """
    kind, source = weights.read_ctranslate2(folder / "model.bin")
    if kind != "WhisperSpec":
        raise weights.WeightsError(f"{folder}/model.bin: holds a {kind}; expected WhisperSpec.")
    tensors = {}

    def take(name):
        if name not in source:
            raise weights.WeightsError(f"{folder}/model.bin: tensor {name} is missing.")
        return source.pop(name)

    def put(name, value):
        tensors["model." + name] = value

    def norm(target, prefix):
        put(f"{target}.weight", take(f"{prefix}/gamma"))
        put(f"{target}.bias", take(f"{prefix}/beta"))

    def linear(targets, prefix):
        """One stacked matrix of CTranslate2 to its parts; the k slice of a bias is zero, Whisper's k has none."""
        weight, bias = take(f"{prefix}/weight"), take(f"{prefix}/bias")
        rows = weight.shape[0] // len(targets)
        for i, target in enumerate(targets):
            part = bias[i * rows:(i + 1) * rows]
            put(f"{target}.weight", weight[i * rows:(i + 1) * rows])
            if not target.endswith("k_proj"):
                put(f"{target}.bias", part)
            elif np.any(part):
                raise weights.WeightsError(f"{folder}/model.bin: {prefix} has a key bias that is not zero; the stack "
                                           "is not in the order q, k, v.")

    def projections(block, names):
        return [f"{block}.{name}_proj" for name in names]

    for conv in ("conv1", "conv2"):
        put(f"encoder.{conv}.weight", take(f"encoder/{conv}/weight"))
        put(f"encoder.{conv}.bias", take(f"encoder/{conv}/bias"))
    put("decoder.embed_tokens.weight", take("decoder/embeddings/weight"))
    projection = source.pop("decoder/projection/weight", None)
    if projection is not None and not np.array_equal(projection, tensors["model.decoder.embed_tokens.weight"]):
        raise weights.WeightsError(f"{folder}/model.bin: the output projection is not tied to the token embedding.")
    layers, heads = {}, {}
    for side in ("encoder", "decoder"):
        put(f"{side}.embed_positions.weight", take(f"{side}/position_encodings/encodings"))
        norm(f"{side}.layer_norm", f"{side}/layer_norm")
        layers[side] = len({k.split("/")[1] for k in source if k.startswith(f"{side}/layer_")})
        heads[side] = int(take(f"{side}/num_heads"))
        for i in range(layers[side]):
            here, there = f"{side}/layer_{i}", f"{side}.layers.{i}"
            linear(projections(f"{there}.self_attn", "qkv"), f"{here}/self_attention/linear_0")
            linear(projections(f"{there}.self_attn", ["out"]), f"{here}/self_attention/linear_1")
            norm(f"{there}.self_attn_layer_norm", f"{here}/self_attention/layer_norm")
            if side == "decoder":
                linear(projections(f"{there}.encoder_attn", "q"), f"{here}/attention/linear_0")
                linear(projections(f"{there}.encoder_attn", "kv"), f"{here}/attention/linear_1")
                linear(projections(f"{there}.encoder_attn", ["out"]), f"{here}/attention/linear_2")
                norm(f"{there}.encoder_attn_layer_norm", f"{here}/attention/layer_norm")
            linear([f"{there}.fc1"], f"{here}/ffn/linear_0")
            linear([f"{there}.fc2"], f"{here}/ffn/linear_1")
            norm(f"{there}.final_layer_norm", f"{here}/ffn/layer_norm")
    left_over = sorted(name for name, value in source.items() if value.ndim)  # scalars are CTranslate2's own options
    if left_over:
        raise weights.WeightsError(f"{folder}/model.bin: {len(left_over)} tensors are left over: {left_over[:5]}.")
    vocab_size, width = tensors["model.decoder.embed_tokens.weight"].shape
    special = read_special_tokens(folder)
    if special is None:
        raise FileNotFoundError(f"{folder}: has neither tokenizer.json nor vocabulary.json; expected one of them, to "
                                "know the ids of the special tokens.")
    ids = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), special.end)
    config = WhisperConfig(
        vocab_size=vocab_size, d_model=width, num_mel_bins=tensors["model.encoder.conv1.weight"].shape[1],
        encoder_layers=layers["encoder"], encoder_attention_heads=heads["encoder"],
        encoder_ffn_dim=tensors["model.encoder.layers.0.fc1.weight"].shape[0], decoder_layers=layers["decoder"],
        decoder_attention_heads=heads["decoder"],
        decoder_ffn_dim=tensors["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=tensors["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=tensors["model.decoder.embed_positions.weight"].shape[0],
        decoder_start_token_id=special.start, **ids)
    return config, tensors
