"""A model with an adapter: what `get_peft_model` of Hugging Face's `peft` library gives, under its names."""

import hashlib
import sys
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from tfhf import weights
from tfhf.models.pretrained import ExportableModel, PreTrainedModel
from tfhf.optimizers import freeze
from tfhf.peft import lora
from tfhf.peft.config import (
    PEFT_CONFIGS, LoraConfig, PeftError, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig,
)
from tfhf.peft.graft import Graft, forget_compiled, plain_classes, ungraft
from tfhf.peft.places import places_of, put_prefix, put_virtual_tokens
from tfhf.peft.prompt_encoders import make_prompt_encoder

# Methods that take prompts of their own, in front of which no virtual tokens would stand.
_GENERATION = ("generate", "generate_with_scores", "decode_tokens", "transcribe")


def get_peft_model(model, peft_config):
    """The model with a new adapter, the only thing that is trained: see `PeftModel`, whose arguments these are."""
    return PeftModel(model, peft_config)


def adapted(model, lora, task_type):
    """What a task's `build_model` returns whose config has a field `lora`; says on stderr how much is trained.

    Args:
        model: the built model.
        lora: a `LoraConfig`; None: the model is returned as it is.
        task_type: of the adapter, where `lora` has none. "SEQ_CLS" trains and saves the head as well.

    Raises:
        PeftError: see `PeftModel`.
    """
    if lora is None:
        return model
    model = get_peft_model(model, replace(lora, task_type=lora.task_type or task_type))
    model.print_trainable_parameters(file=sys.stderr)
    return model


@keras.saving.register_keras_serializable("tfhf")
class PeftModel(ExportableModel):
    """A model with an adapter: its inputs and outputs are the model's, its trainable variables the adapter's alone.

    What the model has besides, such as `config` or `generate`, is there as well. The model itself is changed: its
    layers have the adapter's parts in them, until `unload` or `merge_and_unload` gives it back.

    Virtual tokens stand in front of a text's tokens (Whisper: of the decoder's; wav2vec2: in front of the frames) and
    count among the model's positions. Outputs are those of the text alone.

    Args:
        base_model: a built model. For LoRA any Keras model, for the other methods one that `tfhf.peft.places` knows.
        peft_config: one of the classes in `tfhf.peft.config`.
        table: keep virtual tokens themselves and no network that makes them, as a saved adapter has them.

    Raises:
        PeftError: the model has an adapter already, a target matches nothing, the model is of an unknown kind.
    """

    def __init__(self, base_model, peft_config, table=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # how inputs are cast is the base model's matter
        kind = type(base_model).__name__
        if isinstance(base_model, PeftModel) or any(isinstance(part, Graft) for part in base_model._flatten_layers()):
            raise PeftError(f"{kind} has an adapter already; merge_and_unload() it first.")
        if not base_model.built:
            raise PeftError(f"{kind} is not built; call it once before it gets an adapter.")
        found, places = {}, None
        if not isinstance(peft_config, LoraConfig):
            places = places_of(base_model)
        else:
            if not peft_config.target_modules:
                peft_config = replace(peft_config, target_modules=places_of(base_model).lora)
            found = lora.targets(base_model, peft_config.target_modules,
                                 lambda name: _is_in(name, peft_config.whole_modules))
        whole = [variable for variable in base_model.trainable_variables
                 if _is_in(weights.reference_name(variable).rpartition(".")[0], peft_config.whole_modules)]
        if peft_config.whole_modules and not whole:
            raise PeftError(f"modules_to_save: none of {', '.join(peft_config.whole_modules)} is a module of {kind}.")
        tied = _tied(base_model, whole)
        if tied:
            raise PeftError(f"modules_to_save: {tied} is tied to another part of {kind}; the peft library trains and "
                            "saves a copy of one and leaves the other as it is. Expected modules with weights of their "
                            "own.")
        # Lists of variables and layers that belong to the base model are not to be noticed as this model's own.
        object.__setattr__(self, "_unfrozen", list(base_model.trainable_variables))
        object.__setattr__(self, "_whole", whole)
        object.__setattr__(self, "_lora_layers", list(found.values()))
        freeze(base_model, [""])
        for variable in whole:
            variable.trainable = True
        self.base_model, self.peft_config, self.places, self.prompt_encoder = base_model, peft_config, places, None
        for layer in found.values():
            lora.add_lora(layer, peft_config)
        if places is not None:
            self._add_virtual_tokens(table)
        forget_compiled(base_model)
        frozen = [v for v in self.variables if not v.trainable and "int" not in str(v.dtype)]
        object.__setattr__(self, "_frozen", frozen)
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_frozen_digest", _digest(self._frozen))
        self.built = True

    @property
    def frozen_digest(self) -> str:
        """SHA-256 over the model's own weights, which no training changes."""
        if self._frozen_digest is None:
            object.__setattr__(self, "_frozen_digest", _digest(self._frozen))
        return self._frozen_digest

    def get_config(self):
        """What Keras saves beside the weights: the base model's config and the adapter's."""
        with plain_classes(self.base_model):
            base = keras.saving.serialize_keras_object(self.base_model)
        return {"base_model": base, "peft_type": self.peft_config.peft_type, "peft_config": self.peft_config.to_dict(),
                "table": self._table, "name": self.name, "dtype": self.dtype_policy}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        base = keras.saving.deserialize_keras_object(config.pop("base_model"), custom_objects=custom_objects)
        kind = PEFT_CONFIGS[config.pop("peft_type")]
        model = cls(base, kind.from_dict(config.pop("peft_config")), **config)
        object.__setattr__(model, "_frozen_digest", None)   # Keras loads the base model's weights after this
        return model

    def _add_virtual_tokens(self, table):
        base, config, places = self.base_model, self.peft_config, self.places
        width, count = getattr(base.config, places.width), config.num_virtual_tokens
        is_prefix = isinstance(config, PrefixTuningConfig)
        columns = 2 * getattr(base.config, places.layers) * width if is_prefix else width
        encoder = make_prompt_encoder(config, width, columns, base.dtype_policy, table)
        if getattr(config, "prompt_tuning_init", "") == "SAMPLE_VOCAB" and not table:
            tokens = places.token_table(base)
            ids = keras.random.randint((count,), 0, tokens.shape[0])
            encoder.embedding.embeddings.assign(ops.take(tokens, ids, axis=0))
        self.prompt_encoder = encoder
        if is_prefix:
            put_prefix(base, places, lambda: encoder(ops.arange(count)), count)
        else:
            put_virtual_tokens(base, places, lambda: encoder(ops.arange(count)))

    def call(self, inputs, training=False):
        if self.places is None or self.places.ids not in inputs:
            return self.base_model(inputs, training=training)
        count, length = self.peft_config.num_virtual_tokens, inputs[self.places.ids].shape[1]
        most = getattr(self.base_model.config, self.places.most)
        if count + length > most:
            raise PeftError(f"{self.places.ids}: {length} tokens and num_virtual_tokens={count}; the model has "
                            f"{self.places.most}={most}.")
        if isinstance(self.peft_config, PrefixTuningConfig):
            return self.base_model(inputs, training=training)
        outputs = self.base_model(self._with_virtual_tokens(inputs), training=training)
        return keras.tree.map_structure(lambda x: self._without_virtual_tokens(x, "labels" in inputs), outputs)

    def _with_virtual_tokens(self, inputs):
        """The inputs with the virtual tokens' ids, those behind the vocabulary, in front of each text."""
        count = self.peft_config.num_virtual_tokens
        virtual = self.base_model.config.vocab_size + np.arange(count)
        front = {self.places.ids: virtual, "attention_mask": 1, "token_type_ids": 0, "labels": -100}
        found = {}
        for name, value in inputs.items():
            if name in front:
                own = ops.broadcast_to(ops.cast(front[name], value.dtype), (ops.shape(value)[0], count))
                found[name] = ops.concatenate([own, value], axis=1)
            elif name in ("segment_ids", "position_ids", "inputs_embeds", "past_key_values"):
                raise PeftError(f"{name}: not with virtual tokens in front of each text; tune a prefix instead.")
            else:
                found[name] = value
        return found

    def _without_virtual_tokens(self, outputs, losses):
        """[batch, virtual + length, ...] -> [batch, length, ...]; what has one row for a text stays as it is."""
        per_token = len(outputs.shape) == (2 if losses else 3)
        return outputs[:, self.peft_config.num_virtual_tokens:] if per_token else outputs

    def __getattr__(self, name):
        """What is not here is the base model's."""
        base = self.__dict__.get("base_model")
        if base is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if name in _GENERATION and isinstance(self.peft_config, (PromptTuningConfig, PromptEncoderConfig)):
            raise PeftError(f"{name}: not with virtual tokens in front of each text; tune a prefix instead.")
        return getattr(base, name)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(numbers that are trained, all numbers); random states and counters are none."""
        own = [variable for variable in self.weights if "int" not in str(variable.dtype)]
        return tuple(int(sum(ops.size(variable) for variable in some))
                     for some in ([variable for variable in own if variable.trainable], own))

    def print_trainable_parameters(self, file=None):
        """Prints how many parameters are trained, of how many; to stdout, or to `file`."""
        trained, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {100 * trained / total:.4f}",
              file=file, flush=True)

    def merge_adapter(self):
        """LoRA: puts the adapter into the kernels, so that a step costs no more than the base model's.

        Raises:
            PeftError: another method, which has nothing to merge.
        """
        self._check_is_lora()
        for layer in self._lora_layers:
            layer.merge()

    def unmerge_adapter(self):
        """Undoes `merge_adapter`, to the bit."""
        self._check_is_lora()
        for layer in self._lora_layers:
            layer.unmerge()

    def merge_and_unload(self):
        """LoRA: the base model with the adapter in its kernels and no other trace of it; raises as `merge_adapter`."""
        self.merge_adapter()
        return self.unload()

    def serving_model(self):
        """What an export holds (tfhf/export.py): LoRA in one of our models: a plain one of its own weights, the adapter
        in its kernels. Otherwise this model. This one stays as it is."""
        base = self.base_model
        if not isinstance(self.peft_config, LoraConfig) or not isinstance(base, PreTrainedModel):
            return self
        merged_before = any(layer.lora_unmerged is not None for layer in self._lora_layers)
        self.merge_adapter()
        tensors = {name: value for name, value in weights.reference_weights(base).items()
                   if not {"lora_A", "lora_B"} & set(name.split("."))}
        if not merged_before:
            self.unmerge_adapter()
        model = type(base).from_config(base.get_config())
        weights.assign_reference_weights(model, tensors, where=f"the merged {type(base).__name__}")
        return model

    def unload(self):
        """The base model as it was, but for modules that were trained whole; this model is of no use then."""
        for layer in self.base_model._flatten_layers():
            if isinstance(layer, Graft):
                ungraft(layer)
        for variable in self._unfrozen:
            variable.trainable = True
        forget_compiled(self.base_model)
        return self.base_model

    def _check_is_lora(self):
        if not isinstance(self.peft_config, LoraConfig):
            raise PeftError(f"{self.peft_config.peft_type}: virtual tokens cannot be merged; only LoRA can.")

    @property
    def saved_variables(self) -> list:
        """What a run's checkpoint holds (tfhf/checkpoints.py): the adapter and random states. Of the model's own
        weights it has the `frozen_digest`."""
        frozen = {id(variable) for variable in self._frozen}
        return [variable for variable in self.variables if id(variable) not in frozen]

    def adapter_variables(self) -> list:
        """The model's variables that a saved adapter has, without what makes the virtual tokens."""
        return [part.kernel for layer in self._lora_layers for part in (layer.lora_A, layer.lora_B)] + self._whole

    def save_pretrained(self, folder):
        """Writes adapter_config.json and adapter_model.safetensors, which the `peft` library loads.

        Virtual tokens are written as they are, without the network that made them, as peft does.

        Raises:
            PeftError: the adapter is merged.
        """
        from tfhf.peft.convert import save_pretrained

        lora.check_not_merged(self._lora_layers)
        save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, model, path, is_trainable=False):
        """The model with a saved adapter, by this library or by `peft`.

        Args:
            model: the base model.
            path: folder or hub id of the adapter.
            is_trainable: whether to go on training it; virtual tokens are trained themselves then.

        Raises:
            PeftError: the adapter is of another kind of model, or of a method that is not here.
            tfhf.weights.WeightsError: a tensor is missing, left over or of another shape. The model is as it was then.
            FileNotFoundError: a file is missing.

        An entry of adapter_config.json that is not applied here is a PeftError with its name, such as the values of
        init_lora_weights that change the base (pissa, olora, corda, loftq, lora_ga).
        """
        from tfhf.peft.convert import from_pretrained

        return from_pretrained(cls, model, path, is_trainable)


def _tied(model, variables):
    """The name of the first of the variables whose weights stand for two modules; "" if none does."""
    tied = set(getattr(model, "aliases", {}).values())
    return next((name for name in map(weights.reference_name, variables) if name in tied), "")


def _is_in(name, modules):
    """Whether a module is one of `modules`, names or ends of names, or inside of one."""
    return any(f".{module}." in f".{name}." for module in modules)


def _digest(variables):
    """SHA-256 over the values."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable)))
    return digest.hexdigest()
