"""What people do with a plain Keras model: save, load in another process, copy, pickle, clone, checkpoint, export."""

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfhf
from tfhf import keras_classes
from tfhf.gan import AdversarialPair
from tfhf.models.bert.convert import tiny_config as tiny_bert
from tfhf.models.monodepth.config import tiny_config as tiny_monodepth
from tfhf.models.srgan.config import SRGANDiscriminatorConfig
from tfhf.models.vgg.config import VGGConfig
from tfhf.models.vgg.model import VGGFeatures
from tfhf.models.wav2vec2.convert import tiny_config as tiny_wav2vec2
from tfhf.peft.config import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from tfhf.peft.model import PeftModel, get_peft_model

ROOT = Path(__file__).resolve().parent.parent
TEXT = {"input_ids": np.array([[3, 5, 7, 9], [4, 6, 0, 0]], "int32"),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]], "int32")}
SOUND = {"input_values": np.sin(np.arange(3200, dtype="float32")).reshape(2, 1600),
         "input_lengths": np.array([1600, 1200], "int32")}
GPT2 = tfhf.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2)
WHISPER = tfhf.WhisperConfig(vocab_size=60, d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
                             decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=10,
                             max_target_positions=12)
SPEECH = {"input_values": np.sin(np.arange(6400, dtype="float32")).reshape(2, 3200),
          "decoder_input_ids": np.array([[1, 2, 3], [4, 5, 6]], "int32")}
RESNET = tfhf.ResNetConfig.of_size("resnet8", num_labels=3)
UNET = tfhf.UNetConfig(hidden_sizes=(4, 8), use_batch_norm=True)
SRGAN = tfhf.SRGANConfig(2, 8, 1)


def pictures(size=16, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(dtype)


def _srgan_pair():
    discriminator = tfhf.SRGANDiscriminator(SRGANDiscriminatorConfig(32, 4, 8), name="discriminator")
    return AdversarialPair(tfhf.SRGANGenerator(SRGAN, name="generator"), discriminator)


IMAGES = {"pixel_values": pictures()}
MODELS = {
    "BertModel": (lambda: tfhf.BertModel(tiny_bert()), TEXT),
    "BertForSequenceClassification": (lambda: tfhf.BertForSequenceClassification(tiny_bert()), TEXT),
    "GPT2Model": (lambda: tfhf.GPT2Model(GPT2), TEXT),
    "GPT2LMHeadModel": (lambda: tfhf.GPT2LMHeadModel(GPT2), TEXT),
    "GPT2ForSequenceClassification": (lambda: tfhf.GPT2ForSequenceClassification(GPT2), TEXT),
    "MonodepthModel": (lambda: tfhf.MonodepthModel(tiny_monodepth()), IMAGES),
    "ResNetModel": (lambda: tfhf.ResNetModel(RESNET), IMAGES),
    "ResNetForImageClassification": (lambda: tfhf.ResNetForImageClassification(RESNET), IMAGES),
    "EfficientNetLiteForImageClassification": (lambda: tfhf.EfficientNetLiteForImageClassification(
        tfhf.EfficientNetLiteConfig(width_coefficient=0.1, depth_coefficient=0.2, num_labels=3)),
        {"pixel_values": pictures(32)}),
    "SRGANGenerator": (lambda: tfhf.SRGANGenerator(SRGAN), IMAGES),
    "SRGANDiscriminator": (lambda: tfhf.SRGANDiscriminator(SRGANDiscriminatorConfig(16, 4, 8)),
                           pictures(dtype="float32") / 255),
    "AdversarialPair": (_srgan_pair, IMAGES),
    "UNetForDepthEstimation": (lambda: tfhf.UNetForDepthEstimation(UNET), IMAGES),
    "UNetForSemanticSegmentation": (lambda: tfhf.UNetForSemanticSegmentation(UNET), IMAGES),
    "VGGFeatures": (lambda: VGGFeatures(VGGConfig((4, 8), (1, 1))), pictures(dtype="float32") / 255),
    "Wav2Vec2Model": (lambda: tfhf.Wav2Vec2Model(tiny_wav2vec2()), SOUND),
    "Wav2Vec2ForCTC": (lambda: tfhf.Wav2Vec2ForCTC(tiny_wav2vec2()), SOUND),
    "Wav2Vec2ForPreTraining": (lambda: tfhf.Wav2Vec2ForPreTraining(tiny_wav2vec2(), feature_grad_mult=0.5), SOUND),
    "Wav2Vec2ForSequenceClassification": (lambda: tfhf.Wav2Vec2ForSequenceClassification(tiny_wav2vec2()), SOUND),
    "WhisperForConditionalGeneration": (lambda: tfhf.WhisperForConditionalGeneration(WHISPER), SPEECH),
    "LoRA": (lambda: get_peft_model(tfhf.BertForSequenceClassification(tiny_bert()),
                                    LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.1)), TEXT),
    "LoRA of Whisper": (lambda: get_peft_model(tfhf.WhisperForConditionalGeneration(WHISPER), LoraConfig(r=2)), SPEECH),
    "prompt tuning": (lambda: get_peft_model(tfhf.GPT2LMHeadModel(GPT2), PromptTuningConfig(num_virtual_tokens=3)),
                      TEXT),
    "P-tuning": (lambda: get_peft_model(tfhf.BertModel(tiny_bert()), PromptEncoderConfig(num_virtual_tokens=3)), TEXT),
    "prefix tuning": (lambda: get_peft_model(tfhf.GPT2LMHeadModel(GPT2), PrefixTuningConfig(
        num_virtual_tokens=3, prefix_projection=True)), TEXT),
}


QUICK = ("BertModel", "SRGANGenerator", "AdversarialPair", "VGGFeatures", "LoRA", "prefix tuning")


def some(*quick):
    """All models, those that are not named for the long proofs; a task's own model is checked in its harness too."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.nightly) for name in MODELS]


def flat(outputs):
    return [np.asarray(keras.ops.convert_to_numpy(each)) for each in keras.tree.flatten(outputs)]


def assert_same(outputs, expected):
    for got, wanted in zip(flat(outputs), flat(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def made(name):
    """(model with weights of its own, inputs, its outputs)"""
    make, inputs = MODELS[name]
    model, draw = make(), np.random.default_rng(1)
    for variable in model.weights:
        if "int" not in str(variable.dtype):
            variable.assign(np.abs(draw.normal(0.1, 0.1, variable.shape)))
    return model, inputs, model(inputs, training=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of NAME.keras of all models, and {name: outputs in another process, which imports tfhf alone}."""
    folder = tmp_path_factory.mktemp("saved")
    names = {f"{number}.keras": name for number, name in enumerate(MODELS)}
    expected = {}
    for file, name in names.items():
        model, inputs, outputs = made(name)
        model.save(folder / file)
        expected[file] = inputs, flat(outputs)
    (folder / "expected.pickle").write_bytes(pickle.dumps(expected))
    code = """
import pickle, sys
import tfhf
import keras, numpy as np
from pathlib import Path
folder, differences = Path(sys.argv[1]), {}
for file, (inputs, expected) in pickle.loads((folder / "expected.pickle").read_bytes()).items():
    try:
        model = keras.models.load_model(folder / file)
        got = [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(inputs, training=False))]
        same = all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(got, expected, strict=True))
        differences[file] = "" if same else "other outputs"
    except Exception as error:
        differences[file] = f"{type(error).__name__}: {error}"[:500]
(folder / "differences.pickle").write_bytes(pickle.dumps(differences))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = pickle.loads((folder / "differences.pickle").read_bytes())
    return {names[file]: difference for file, difference in differences.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_process_that_imports_tfhf_alone_loads_it(name, saved):
    assert saved[name] == ""


@pytest.mark.parametrize("name", some(*QUICK))
def test_copies_pickles_and_clones(name):
    model, inputs, expected = made(name)
    assert_same(copy.deepcopy(model)(inputs, training=False), expected)
    assert_same(pickle.loads(pickle.dumps(model))(inputs, training=False), expected)
    clone = keras.models.clone_model(model)
    assert [tuple(a.shape) for a in clone.weights] == [tuple(b.shape) for b in model.weights]
    clone.set_weights(model.get_weights())
    assert_same(clone(inputs, training=False), expected)
    assert [v.path for v in clone.trainable_variables] == [v.path for v in model.trainable_variables]


@pytest.mark.parametrize("name", some("SRGANGenerator", "LoRA"))
def test_exports_without_a_signature(name, tmp_path):
    import tensorflow as tf

    model, inputs, expected = made(name)
    model.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "export"))
    assert_same(served.serve(inputs), expected)
    one = {key: value[:1] for key, value in inputs.items()} if isinstance(inputs, dict) else inputs[:1]
    assert flat(served.serve(one))[0].shape[0] == 1


def test_an_export_without_a_call_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="has never been called; call it once, or give the signature"):
        MODELS["BertModel"][0]().export(tmp_path / "export")


@pytest.mark.parametrize("name", ["LoRA", pytest.param("ResNetForImageClassification", marks=pytest.mark.nightly)])
def test_checkpoints_of_a_fit(name, tmp_path):
    model, inputs, _ = made(name)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)
    getattr(model, "fit")(inputs, np.zeros(2), verbose=0, callbacks=[checkpoint])
    back = keras.models.load_model(tmp_path / "best.keras")
    assert_same(back(inputs, training=False), model(inputs, training=False))
    assert len(back.trainable_variables) == len(model.trainable_variables)


def test_a_loaded_adapter_knows_its_base(tmp_path):
    model, inputs, expected = made("LoRA")
    model.save(tmp_path / "lora.keras")
    back = keras.models.load_model(tmp_path / "lora.keras")
    assert isinstance(back, PeftModel) and back.peft_config == model.peft_config
    back.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    assert_same(back.merge_and_unload()(inputs, training=False), expected)


def test_every_registered_class_has_a_stand_in():
    pattern = re.compile(r'^@keras\.saving\.register_keras_serializable\("tfhf"\)\nclass (\w+)', re.M)
    found = {name: ".".join(path.relative_to(ROOT).with_suffix("").parts)
             for path in (ROOT / "tfhf").rglob("*.py") for name in pattern.findall(path.read_text("utf-8"))}
    known = {**tfhf._EXPORTS, **keras_classes.OTHERS}
    assert len(found) > 30 and found.items() <= known.items()
    exported = {name: getattr(tfhf, name) for name in tfhf._EXPORTS}
    public = {name for name, value in exported.items() if isinstance(value, type)
              and issubclass(value, (keras.Layer, keras.losses.Loss))}
    assert not public - set(found)
    assert set(keras_classes.OTHERS) <= set(found)


@pytest.mark.parametrize("order", ["import keras, tfhf", *(pytest.param(order, marks=pytest.mark.nightly) for order in (
    "import tfhf, keras", "import tfhf; from keras import saving"))])
def test_stand_ins_whatever_is_imported_first(order):
    code = (f"{order}\nimport sys, keras\nassert 'tfhf.models.bert.model' not in sys.modules\n"
            "print(type(keras.saving.get_registered_object('tfhf>BertModel')).__name__)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "StandIn", done.stderr
