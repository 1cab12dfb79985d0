"""Checkpoints as people have them: torch's files, shards, missing parts, damaged and hostile files; and saving."""

import json

import ml_dtypes
import numpy as np
import pytest

import tfhf
from tfhf.models.bert.convert import tiny_config, write_tiny_checkpoint
from tfhf.models.classifiers import classifier_folder
from tfhf.models.pretrained import label_names
from tfhf.models.wav2vec2.convert import tiny_config as tiny_wav2vec2
from tfhf.weights import WeightsError, read_safetensors, write_safetensors

IDS = {"input_ids": np.array([[5, 6, 7, 8]], "int32")}


@pytest.fixture
def folder(tmp_path):
    config = tiny_config(num_labels=3, labels=("bad", "good", "odd"))
    tfhf.BertForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


def change(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def load(folder, **options):
    return tfhf.BertForSequenceClassification.from_pretrained(folder, **options)


def to_torch(folder, shards=1, prefix=""):
    """pytorch_model.bin, or shards with an index, in the place of the folder's model.safetensors."""
    torch = pytest.importorskip("torch", reason="it writes the files")
    tensors = read_safetensors(folder)
    names = sorted(tensors)
    files = [f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" for i in range(shards)] if shards > 1 else [
        "pytorch_model.bin"]
    for number, file in enumerate(files):
        torch.save({prefix + name: torch.from_numpy(tensors[name].copy()) for name in names[number::shards]},
                   folder / file)
    if shards > 1:
        index = {"weight_map": {name: files[place % shards] for place, name in enumerate(names)}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("shards, prefix", [(1, ""), (3, ""), (1, "module.")])
def test_torchs_files_where_safetensors_are_missing(folder, shards, prefix, capsys):
    expected = load(folder)(IDS)
    to_torch(folder, shards, prefix)
    np.testing.assert_array_equal(load(folder)(IDS), expected)
    assert ("took the prefix 'module.'" in capsys.readouterr().err) == bool(prefix)


def test_a_shard_that_is_missing(folder):
    to_torch(folder, 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(WeightsError, match=r"1 of 3 shards are missing \[pytorch_model-00002-of-00003.bin\]"):
        load(folder)


@pytest.mark.parametrize("index, message", [
    ({}, "has no weight_map"), ([], "holds a list"), ({"weight_map": {"a": 3}}, "has no weight_map"),
    ({"weight_map": {"a": "../other/b.safetensors"}}, "names the file '../other/b.safetensors'; expected files in its"),
    ({"weight_map": {"a": "/b.safetensors"}}, "names the file '/b.safetensors'"),
    ({"weight_map": {"a": ".."}}, "names the file '..'"),
    ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, "2 of 2 shards are missing"),
])
def test_an_index_that_leads_elsewhere_or_nowhere(folder, index, message):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_files_that_did_not_arrive(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for size in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match="was not downloaded to its end") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    with pytest.raises(WeightsError, match="is a pointer of Git LFS"):
        load(folder)
    path.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(WeightsError, match="is a web page"):
        load(folder)


@pytest.mark.parametrize("dtype, message", [("int8", "holds int8; expected floats"), ("bool", "holds bool"),
                                            (ml_dtypes.float8_e4m3fn, "is of dtype F8_E4M3, as quantised")])
def test_quantised_checkpoints(folder, dtype, message):
    tensors = read_safetensors(folder)
    tensors["classifier.weight"] = tensors["classifier.weight"].astype(dtype)
    write_safetensors(folder, tensors)
    with pytest.raises(WeightsError, match=message):
        load(folder)


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_floats_of_other_widths(folder, dtype):
    expected = load(folder)(IDS)
    write_safetensors(folder, {name: value.astype(dtype) for name, value in read_safetensors(folder).items()})
    np.testing.assert_allclose(load(folder)(IDS), expected, atol=0.05)


@pytest.mark.parametrize("entries, message", [
    (dict(hidden_size=10**9), "hidden_size: got 1000000000; expected 1 <= value <= 16,777,216"),
    (dict(hidden_size=96_000), "asks for [0-9,]+ parameters or more; the checkpoint has"),
    (dict(vocab_size=10**7), "asks for [0-9,]+ parameters or more"),
    (dict(intermediate_size=2**24), "asks for [0-9,]+ parameters or more"),
    (dict(num_hidden_layers=10**6), "num_hidden_layers: got 1000000; expected 0 <= value <= 1,000"),
    (dict(num_hidden_layers=-1), "num_hidden_layers: got -1"),
    (dict(num_attention_heads=0), "num_attention_heads: got 0"),
    (dict(hidden_size=32.0), r"hidden_size: got 32.0 \(float\), expected int"),
    (dict(hidden_size="32"), r"hidden_size: got '32' \(str\), expected int"),
    (dict(hidden_size=True), r"hidden_size: got True \(bool\), expected int"),
    (dict(hidden_size=None), "hidden_size: got None"),
    (dict(hidden_size=[32]), "hidden_size: got"),
    (dict(hidden_dropout_prob=float("nan")), "hidden_dropout_prob: got nan; expected a finite number"),
    (dict(layer_norm_eps=float("inf")), "layer_norm_eps: got inf"),
    (dict(hidden_dropout_prob=1.5), "hidden_dropout_prob: got 1.5"),
    (dict(model_type="roberta"), "model_type is 'roberta'; expected 'bert'"),
    (dict(id2label=[1, 2]), "id2label is a list"),
    (dict(id2label={"0": "a", "2": "b"}), "id2label has 2 labels and no number 1"),
])
def test_configs_that_cannot_be(folder, entries, message):
    change(folder, **entries)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


@pytest.mark.parametrize("config, entries", [
    (tfhf.GPT2Config, dict(n_layer=10**6)), (tfhf.GPT2Config, dict(n_head=0)), (tfhf.WhisperConfig, dict(d_model=-1)),
    (tfhf.WhisperConfig, dict(encoder_layers=10**5)), (tfhf.Wav2Vec2Config, dict(conv_dim=(0,) * 7)),
    (tfhf.Wav2Vec2Config, dict(num_conv_pos_embedding_groups=0)), (tfhf.ResNetConfig, dict(depths=(10**6,) * 4)),
    (tfhf.EfficientNetLiteConfig, dict(width_coefficient=float("nan"))), (tfhf.UNetConfig, dict(hidden_sizes=(8, -8))),
    (tfhf.SRGANConfig, dict(hidden_size=10**9)), (tfhf.MonodepthConfig, dict(max_disparity=float("inf"))),
    (tfhf.EfficientNetLiteConfig, dict(depth_coefficient=1e6)), (tfhf.BertConfig, dict(labels=("one",))),
])
def test_numbers_that_no_model_has(config, entries):
    with pytest.raises(ValueError, match=next(iter(entries))):
        config(**entries)


def test_a_lower_bound_of_the_parameters():
    """Of every published size: never above the truth, nor far below it."""
    for config, table in ((tfhf.BertConfig, "bert"), (tfhf.GPT2Config, "gpt2"), (tfhf.WhisperConfig, "whisper"),
                          (tfhf.ResNetConfig, "resnet"), (tfhf.EfficientNetLiteConfig, "efficientnet_lite"),
                          (tfhf.UNetConfig, "unet"), (tfhf.MonodepthConfig, "monodepth"), (tfhf.SRGANConfig, "srgan")):
        module = __import__(f"tfhf.models.{table}.config", fromlist=["PARAMETER_COUNTS"])
        for size, count in module.PARAMETER_COUNTS.items():
            if size in config.sizes:
                assert 0.04 * count < config.of_size(size).least_parameters() <= 1.01 * count, size
    least = tfhf.Wav2Vec2Config.of_size("base").least_parameters()
    assert 0.9 * 94_371_712 < least <= 94_371_712


@pytest.mark.parametrize("content, message", [("[" * 100_000, "nested too deeply"), ("{", "is damaged, not JSON"),
                                              ("[1]", "holds a list"), ("\xff", "is not UTF-8 text")])
def test_a_config_that_is_no_json_object(folder, content, message):
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    for reader in (load, classifier_folder):
        with pytest.raises(WeightsError, match=message):
            reader(folder)


def test_a_config_of_before_2020_has_no_model_type(folder, capsys):
    expected = load(folder)(IDS)
    change(folder, model_type=None, _name_or_path="bert-base-uncased")
    np.testing.assert_array_equal(load(folder)(IDS), expected)
    assert "has no model_type; it is read as 'bert'" in capsys.readouterr().err
    assert classifier_folder(folder)[1].model_class is tfhf.BertForSequenceClassification


def told(capsys):
    return capsys.readouterr().err


def test_a_base_model_in_front_of_a_head_begins_with_a_new_one_and_says_so(tmp_path, capsys):
    tfhf.BertModel(tiny_config()).save_pretrained(tmp_path)
    model = load(tmp_path, num_labels=5)
    assert model(IDS).shape == (1, 5)
    assert "BertForSequenceClassification: classifier.weight, classifier.bias begin with random" in told(capsys)
    tfhf.BertModel.from_pretrained(tmp_path)
    assert not told(capsys)


def test_a_bert_without_its_pooler(tmp_path, capsys):
    tfhf.BertModel(tiny_config()).save_pretrained(tmp_path)
    tensors = {name: value for name, value in read_safetensors(tmp_path).items() if not name.startswith("pooler")}
    write_safetensors(tmp_path, tensors)
    tfhf.BertModel.from_pretrained(tmp_path)
    assert "bert.pooler.dense.weight, bert.pooler.dense.bias begin with random values" in told(capsys)
    load(tmp_path)
    assert "bert.pooler.dense.weight, bert.pooler.dense.bias, classifier.weight" in told(capsys)
    write_safetensors(tmp_path, {name: value for name, value in tensors.items() if "layer.1.output" not in name})
    with pytest.raises(WeightsError, match="missing 4 tensors"):
        tfhf.BertModel.from_pretrained(tmp_path)


def test_a_trained_head_without_its_pooler_is_refused(folder):
    write_safetensors(folder, {name: value for name, value in read_safetensors(folder).items() if "pooler" not in name})
    with pytest.raises(WeightsError, match=r"missing 2 tensors \[bert.pooler"):
        load(folder)


def test_a_wav2vec2_without_its_mask_vector(tmp_path, capsys):
    model = tfhf.Wav2Vec2ForCTC(tiny_wav2vec2())
    model.save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path)
    del tensors["wav2vec2.masked_spec_embed"]
    write_safetensors(tmp_path, tensors)
    sound = {"input_values": np.sin(np.arange(1600, dtype="float32"))[None]}
    back = tfhf.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    np.testing.assert_allclose(back(sound), model(sound), atol=1e-6)
    assert "wav2vec2.masked_spec_embed begins with random values" in told(capsys)


def test_labels_go_with_the_model(folder, tmp_path):
    assert load(folder).config.labels == ("bad", "good", "odd")
    content = json.loads((folder / "config.json").read_text())
    assert content["id2label"] == {"0": "bad", "1": "good", "2": "odd"} and content["label2id"]["odd"] == 2
    assert "labels" not in content and load(folder, new_head=True, num_labels=2).config.labels == ()
    again = load(folder, new_head=True, num_labels=2, labels=("no", "yes"))
    again.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").config.labels == ("no", "yes")
    assert label_names({"1": "b", "0": "a"}, "here") == ("a", "b")
    assert tfhf.BertConfig.from_hugging_face({"model_type": "bert", "id2label": {"0": "LABEL_0"}}, "here").labels == ()


def test_the_tokenizer_goes_with_the_model(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").write_text("mine")
    model = load(source)
    for name in ("one", "own"):
        model.save_pretrained(tmp_path / name)
        load(tmp_path / name)
    expected = (tmp_path / "source" / "tokenizer.json").read_text()
    assert (tmp_path / "one" / "tokenizer.json").read_text() == expected
    assert (tmp_path / "own" / "tokenizer.json").read_text() == "mine"


def test_a_new_vocabulary_does_not_take_the_old_ones_files(tmp_path):
    tfhf.Wav2Vec2ForCTC(tiny_wav2vec2()).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "vocab.json").write_text("{}")
    for options, kept in (({}, True), (dict(new_head=True, vocab_size=7), False)):
        target = tmp_path / f"target {kept}"
        tfhf.Wav2Vec2ForCTC.from_pretrained(tmp_path / "source", **options).save_pretrained(target)
        assert (target / "vocab.json").exists() == kept
