"""LoRA: its arithmetic, merging, targets, and on the speech models against `peft`."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.models.whisper import test_model as whisper
from tests.peft.conftest import moved, our_model, run_theirs
from tests.peft.test_model import IDS, text
from tfhf.config import ConfigError
from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForSequenceClassification
from tfhf.peft import model as peft_model
from tfhf.peft.config import LoraConfig, PeftError, PrefixTuningConfig
from tfhf.peft.model import PeftModel, get_peft_model
from tfhf.weights import read_safetensors, reference_name


def adapted(kind="GPT2LMHeadModel", **options):
    model = get_peft_model(our_model(kind), LoraConfig(**{"r": 4, "lora_alpha": 12, **options}))
    moved(model.trainable_variables)
    return model


def test_one_layer_by_hand():
    model = adapted(target_modules=("h.0.attn.c_attn",))
    layer, = model._lora_layers
    x = np.random.default_rng(0).normal(size=(2, 3, 32)).astype("float32")
    a, b, kernel = (v.numpy() for v in (layer.lora_A.kernel, layer.lora_B.kernel, layer.kernel))
    assert a.shape == (32, 4) and b.shape == (4, 96)
    np.testing.assert_allclose(layer(x), x @ kernel + layer.bias.numpy() + 12 / 4 * (x @ a @ b), atol=1e-4)
    names = [reference_name(variable) for variable in model.trainable_variables]
    assert names == ["transformer.h.0.attn.c_attn.lora_A.weight", "transformer.h.0.attn.c_attn.lora_B.weight"]


def test_begins_as_the_model_itself():
    plain = our_model("GPT2LMHeadModel")(text())
    np.testing.assert_array_equal(get_peft_model(our_model("GPT2LMHeadModel"), LoraConfig())(text()), plain)


def test_merged_equals_unmerged_and_unmerging_is_exact(tmp_path):
    model = adapted(target_modules=("c_attn", "c_proj", "c_fc"))
    before, unmerged = model.get_weights(), model(text()).numpy()
    traced = tf.function(lambda: model(text()))
    np.testing.assert_allclose(traced(), unmerged, atol=1e-5)
    for _ in range(2):  # merging twice is merging once
        model.merge_adapter()
    assert not np.array_equal(model._lora_layers[0].kernel.numpy(), our_model("GPT2LMHeadModel").transformer.h[
        0].attn.c_attn.kernel.numpy())
    np.testing.assert_allclose(model(text()), unmerged, atol=1e-4)
    np.testing.assert_allclose(traced(), unmerged, atol=1e-4)  # what was compiled before does not add it again
    with pytest.raises(PeftError, match="merged; call unmerge_adapter"):
        model.save_pretrained(tmp_path)
    model.unmerge_adapter()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    np.testing.assert_array_equal(model(text()), unmerged)


def test_what_an_export_holds():
    """A plain model with weights of its own; of virtual tokens, which cannot be merged, the model itself."""
    model = adapted("GPT2ForSequenceClassification", task_type="SEQ_CLS")
    expected, before = model(text()).numpy(), model.get_weights()
    for _ in range(2):
        served = model.serving_model()
        assert [reference_name(v) for v in served.trainable_variables] == [
            reference_name(v) for v in our_model("GPT2ForSequenceClassification").trainable_variables]
        np.testing.assert_allclose(served(text()), expected, atol=1e-4)
        served.score.kernel.assign(0 * served.score.kernel)
        np.testing.assert_allclose(model(text()), expected, atol=1e-4)
        model.merge_adapter()   # the second time it is merged already, and stays so
    model.unmerge_adapter()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    prefixed = get_peft_model(our_model("GPT2LMHeadModel"), PrefixTuningConfig(num_virtual_tokens=2))
    assert prefixed.serving_model() is prefixed


def test_a_task_gets_what_its_config_says(capsys):
    model = our_model("BertForSequenceClassification")
    assert peft_model.adapted(model, None, "SEQ_CLS") is model and not capsys.readouterr().err
    model = peft_model.adapted(model, LoraConfig(r=2), "SEQ_CLS")
    assert model.peft_config.whole_modules == ("classifier", "score")
    assert capsys.readouterr().err.startswith(f"trainable params: {2 * 2 * 2 * 64 + 66} || all params: ")


def test_merge_and_unload_gives_a_plain_model(tmp_path):
    model = adapted()
    expected = model(text()).numpy()
    base = model.merge_and_unload()
    np.testing.assert_allclose(base(text()), expected, atol=1e-4)
    base.save_pretrained(tmp_path)
    assert not [name for name in read_safetensors(tmp_path) if "lora" in name]
    np.testing.assert_allclose(type(base).from_pretrained(tmp_path)(text()), base(text()), atol=1e-6)


def test_dropout_acts_in_training_only():
    model = adapted(lora_dropout=0.5)
    plain = model(text()).numpy()
    assert np.abs(model(text(), training=True) - plain).max() > 1e-3
    assert np.abs(model(text(), training=True).numpy() - model(text(), training=True)).max() > 1e-3
    np.testing.assert_array_equal(model(text()), plain)


def test_rank_scaling_and_shares():
    assert LoraConfig(r=4, lora_alpha=8).scaling == 2 and LoraConfig(r=4, lora_alpha=8, use_rslora=True).scaling == 4
    for options, message in ((dict(r=0), "r: got 0, expected 1 or more"),
                             (dict(lora_dropout=1.0), "lora_dropout: got 1.0, expected 0 <= value < 1")):
        with pytest.raises(ConfigError, match=message):
            LoraConfig(**options)
    with pytest.raises(ConfigError, match="num_virtual_tokens: got 0"):
        PrefixTuningConfig(num_virtual_tokens=0)
    assert LoraConfig.from_dict({"target_modules": ["a", "b"]}).target_modules == ("a", "b")
    assert LoraConfig.from_dict({"target_modules": ".*a"}).target_modules == ".*a"


@pytest.mark.parametrize("targets, message", [
    (("c_attn", "q_proj"), r"'q_proj' matches no module of GPT2LMHeadModel; its linear layers are called c_attn, c_fc"),
    (r".*\.query", "'.*query' matches no module"),
    (("wte",), "matches transformer.wte, a Embedding; LoRA is for linear layers"),
    (("ln_1",), "matches transformer.h.0.ln_1, a LayerNormalization"),
])
def test_targets_that_cannot_be(targets, message):
    model = our_model("GPT2LMHeadModel")
    with pytest.raises(PeftError, match=message):
        get_peft_model(model, LoraConfig(target_modules=targets))
    assert model.trainable_variables and model(text()).shape == (*IDS.shape, 211)  # untouched


def test_modules_to_save():
    model = adapted("GPT2ForSequenceClassification", modules_to_save=("score", "h.1.ln_2"))
    names = {reference_name(variable) for variable in model.trainable_variables}
    assert {"score.weight", "transformer.h.1.ln_2.weight", "transformer.h.1.ln_2.bias"} < names
    with pytest.raises(PeftError, match="modules_to_save: none of head is a module of GPT2LMHeadModel"):
        adapted(modules_to_save=("head",))


def test_any_keras_model():
    import keras

    model = keras.Sequential([layers.Dense(5, activation="relu", name="wide"), layers.Dense(2, name="narrow")])
    with pytest.raises(PeftError, match="not built"):
        get_peft_model(model, LoraConfig(target_modules=("narrow",)))
    model.build((None, 3))
    with pytest.raises(PeftError, match="activation"):
        get_peft_model(model, LoraConfig(target_modules=("wide",)))
    with pytest.raises(PeftError, match="got a config of type NoneType; adapters know GPT2Config"):
        get_peft_model(model, LoraConfig())
    assert get_peft_model(model, LoraConfig(r=2, target_modules=("narrow",))).get_nb_trainable_parameters()[0] == 14


def _theirs(model, folder, name):
    import transformers

    model.save_pretrained(folder)
    return getattr(transformers, name).from_pretrained(folder).eval()


def _check_equals_peft(make, inputs, peft, tmp_path, **options):
    """The count, our adapter in peft, and peft's in ours."""
    kind, plain = type(make()).__name__, np.asarray(make()(inputs))
    new = peft.get_peft_model(_theirs(make(), tmp_path / "base", kind), peft.LoraConfig(**options))
    ours = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    model = get_peft_model(make(), LoraConfig(**ours))
    assert model.get_nb_trainable_parameters()[0] == new.get_nb_trainable_parameters()[0]
    moved(model.trainable_variables)
    got = np.asarray(model(inputs))
    assert np.abs(got - plain).max() > 1e-2
    model.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(_theirs(make(), tmp_path / "base", kind), tmp_path / "ours").eval()
    ids = {name: value.astype("int64") if value.dtype == np.int32 else value for name, value in inputs.items()}
    np.testing.assert_allclose(got, run_theirs(theirs, **ids), atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(PeftModel.from_pretrained(make(), tmp_path / "theirs")(inputs), got, atol=1e-5)


def test_whisper_equals_peft(peft, tmp_path):
    def make():
        return whisper.small_model(vocab_size=51865)

    _check_equals_peft(make, whisper.inputs_for(make().config), peft, tmp_path, r=4,
                       target_modules=r".*decoder.*\.(q_proj|k_proj|fc2)")


def test_wav2vec2_equals_peft(peft, tmp_path):
    def make():
        import keras

        keras.utils.set_random_seed(0)
        return Wav2Vec2ForSequenceClassification(tiny_config(do_normalize=False))

    waves = np.random.default_rng(0).normal(size=(2, 1600)).astype("float32")
    _check_equals_peft(make, {"input_values": waves}, peft, tmp_path, r=2,
                       target_modules=["k_proj", "out_proj", "output_dense"],
                       modules_to_save=["projector", "classifier"])
