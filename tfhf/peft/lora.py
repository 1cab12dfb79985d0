"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") in linear layers.

Keras has a `Dense.enable_lora`. It adds A B to the kernel before the product, so that dropout, which is of the input of
A, has no place in it; the gradient of the whole kernel is made and then thrown away; and it can be neither merged and
unmerged nor saved. So it is done here, with the two small products of the paper.
"""

import re

import keras
from keras import ops

from tfhf.peft.config import PeftError
from tfhf.peft.graft import graft, inside, module_name, modules


class Lora:
    """A `keras.layers.Dense` with `lora_A` [inputs, r] and `lora_B` [r, outputs] beside its kernel."""

    def call(self, inputs, training=None):
        x = inputs if self.lora_dropout is None else self.lora_dropout(inputs, training=training)
        return super().call(inputs, training=training) + self.lora_B(self.lora_A(x)) * self.lora_scaling

    def merge(self):
        """Adds B A to the kernel. B is 0 from then on, so that no function compiled before adds it again."""
        if self.lora_unmerged is None:
            kernel, b = (ops.convert_to_numpy(variable) for variable in (self.kernel, self.lora_B.kernel))
            a = ops.convert_to_numpy(self.lora_A.kernel)
            object.__setattr__(self, "lora_unmerged", (kernel, b))
            self.kernel.assign(kernel + self.lora_scaling * (a @ b))
            self.lora_B.kernel.assign(0 * b)

    def unmerge(self):
        """Undoes `merge`, to the bit: subtracting would leave rounding behind."""
        if self.lora_unmerged is not None:
            self.kernel.assign(self.lora_unmerged[0])
            self.lora_B.kernel.assign(self.lora_unmerged[1])
            object.__setattr__(self, "lora_unmerged", None)


def targets(model, target_modules, left_out) -> dict:
    """{module name: layer} of the linear layers that LoRA is for.

    Args:
        model: built.
        target_modules: as `LoraConfig` has it, not empty.
        left_out: function of a module's name; such a module is not taken.

    Raises:
        PeftError: a target that names nothing, or something that is no linear layer.
    """
    found, known = {}, modules(model)
    for target in [target_modules] if isinstance(target_modules, str) else target_modules:
        if isinstance(target_modules, str):
            matching = [name for name in known if re.fullmatch(target, name)]
        else:
            matching = [name for name in known if f".{name}".endswith(f".{target}")]
        matching = [name for name in matching if not left_out(name)]
        if not matching:
            linear = {name.rpartition(".")[2] for name, layer in known.items() if isinstance(layer, keras.layers.Dense)}
            raise PeftError(f"target_modules: {target!r} matches no module of {type(model).__name__}; its linear "
                            f"layers are called {', '.join(sorted(linear))}.")
        for name in matching:
            kind = type(known[name]).__name__
            if not isinstance(known[name], keras.layers.Dense):
                raise PeftError(f"target_modules: {target!r} matches {name}, a {kind}; LoRA is for linear layers.")
            if known[name].activation is not keras.activations.linear:
                raise PeftError(f"target_modules: {name} is a linear layer with an activation in it; expected none.")
            found[name] = known[name]
    return found


def add_lora(layer, config):
    """Grafts A and B on a built Dense layer: A random, B 0, so that nothing changes before training.

    They get peft's initial values: A is uniform within 1 / sqrt(inputs).
    """
    policy, inputs = layer.dtype_policy, layer.kernel.shape[0]
    bound = inputs ** -0.5
    a = keras.layers.Dense(config.r, use_bias=False, name="lora_A", dtype=policy,
                           kernel_initializer=keras.initializers.RandomUniform(-bound, bound))
    b = keras.layers.Dense(layer.units, use_bias=False, name="lora_B", dtype=policy, kernel_initializer="zeros")
    dropout, parts = None, ["lora_A", "lora_B"]
    with inside(layer):
        a.build((None, inputs))
        b.build((None, config.r))
        if config.lora_dropout:
            dropout = keras.layers.Dropout(config.lora_dropout, name="lora_dropout", dtype=policy)
            dropout.build((None, inputs))
            parts.append("lora_dropout")
    graft(layer, Lora, layers=parts, lora_A=a, lora_B=b, lora_dropout=dropout, lora_scaling=config.scaling,
          lora_unmerged=None)


def check_not_merged(layers):
    """PeftError if the adapter is merged into the kernels."""
    for layer in layers:
        if layer.lora_unmerged is not None:
            raise PeftError(f"{module_name(layer)} has its adapter merged; call unmerge_adapter() first.")
