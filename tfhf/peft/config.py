"""What an adapter is, under the field names of Hugging Face's `peft` library; defaults are peft's.

LoRA: Hu et al. 2021. Prompt tuning: Lester et al. 2021. Prefix tuning: Li and Liang 2021. P-tuning: Liu et al. 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from tfhf.config import Config, ConfigError

TaskType = Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "FEATURE_EXTRACTION"]


class PeftError(ValueError):
    """An adapter that does not fit the model, a file, or what is asked of it."""


@dataclass(frozen=True)
class PeftConfig(Config):
    """What all methods have.

    Attributes:
        task_type: as peft knows it; "SEQ_CLS" trains the model's head, `classifier` or `score`, as well. None: no task.
        modules_to_save: names, or ends of names, of the model's own modules that are trained whole and saved with the
            adapter, such as a new head.
    """

    peft_type: ClassVar[str] = ""

    task_type: TaskType | None = None
    modules_to_save: tuple[str, ...] = ()

    @property
    def whole_modules(self) -> tuple[str, ...]:
        """`modules_to_save` with those that the task brings."""
        heads = ("classifier", "score") if self.task_type == "SEQ_CLS" else ()
        return tuple(dict.fromkeys((*self.modules_to_save, *heads)))

    def _at_least_one(self, *names):
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: got {value}, expected 1 or more")

    def _a_share(self, name):
        if not 0 <= getattr(self, name) < 1:
            raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 <= value < 1")


@dataclass(frozen=True)
class LoraConfig(PeftConfig):
    """Low-rank matrices beside linear layers (Hu et al. 2021, section 4.1): y = W x + scaling * B A x.

    Attributes:
        r: the rank of B A.
        lora_alpha: scaling is lora_alpha / r, or with `use_rslora` lora_alpha / sqrt(r) (Kalajdzievski 2023).
        lora_dropout: share of x that is dropped before A while training.
        target_modules: names or ends of names ("c_attn", "attn.c_attn"), or a string: a regular expression that the
            whole name matches, such as r".*decoder.*(q|v)_proj". Names are Hugging Face's. Empty: those that peft takes
            for the model.

    Raises:
        ConfigError: a rank below 1, a dropout that is no share.
    """

    peft_type: ClassVar[str] = "LORA"

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ()
    use_rslora: bool = False

    def __post_init__(self):
        self._at_least_one("r")
        self._a_share("lora_dropout")
        if not math.isfinite(self.lora_alpha):
            raise ConfigError(f"lora_alpha: got {self.lora_alpha}, expected a finite number")

    @property
    def scaling(self) -> float:
        """What B A x is multiplied with."""
        return self.lora_alpha / (self.r ** 0.5 if self.use_rslora else self.r)


@dataclass(frozen=True)
class PromptLearningConfig(PeftConfig):
    """What the methods have that put `num_virtual_tokens` learned vectors in front of a text.

    Raises:
        ConfigError: no virtual token, a width below 1.
    """

    num_virtual_tokens: int = 20

    def __post_init__(self):
        self._at_least_one("num_virtual_tokens", *({"encoder_hidden_size", "encoder_num_layers"} & set(self.to_dict())))


@dataclass(frozen=True)
class PromptTuningConfig(PromptLearningConfig):
    """Learned embeddings in front of the text's (Lester et al. 2021, section 2).

    Attributes:
        prompt_tuning_init: "RANDOM": normal numbers; "SAMPLE_VOCAB": the embeddings of random tokens, which their
            section 3.2 found better.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB"] = "RANDOM"


@dataclass(frozen=True)
class PromptEncoderConfig(PromptLearningConfig):
    """P-tuning (Liu et al. 2021, section 3.2): as prompt tuning, the embeddings made by a small network while training.

    Attributes:
        encoder_reparameterization_type: "MLP", three linear layers; "LSTM", `encoder_num_layers` bidirectional layers
            with `encoder_dropout` between them, then two linear ones.
        encoder_hidden_size: None: the model's width.
    """

    peft_type: ClassVar[str] = "P_TUNING"

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = None
    encoder_num_layers: int = 2
    encoder_dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self._a_share("encoder_dropout")


@dataclass(frozen=True)
class PrefixTuningConfig(PromptLearningConfig):
    """Learned keys and values in front of those of every self-attention (Li and Liang 2021, section 4).

    Attributes:
        prefix_projection: make them by two linear layers while training (their section 4.3).
        encoder_hidden_size: of that network; None: the model's width.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    prefix_projection: bool = False
    encoder_hidden_size: int | None = None


PEFT_CONFIGS = {config.peft_type: config
                for config in (LoraConfig, PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig)}
