"""GPT-2 124M against transformers on torch, and against keras-hub: 2 threads, by turns in one run.

    python -m benchmarks.gpt2              times on the CPU
    python -m benchmarks.gpt2 --keras-hub  of these only the train step against keras-hub's
    python -m benchmarks.gpt2 --tpu        memory, bytes and FLOP of a train step on a TPU v3 core (extra preflight)

On the CPU: 64 greedy tokens behind a prompt of 32, with the same weights, and a train step (AdamW) on 2 x 256 tokens.
Claims: tokens a second at least 1.3 times torch's, so ratios of seconds at most 0.77; a train step no slower than
keras-hub's. keras-hub is no dependency: where it cannot be imported (`pip install keras-hub`) its part is left out, and
a line says so.

On the TPU: 8 x 1,024 tokens, mixed_bfloat16, AdamW, no dropout, without and with segments. Claims: at most 4.0 GB of
temporary memory, 90 GB accessed, 9.5 TFLOP, MFU of at least 60 % by the bytes. Bytes and FLOP are counted by
tfhf.preflight from the optimised program, loops by their trips (this step has none); MFU is that of the model, by the
formula of PaLM (Chowdhery et al. 2022, appendix B), over the larger one of the two times.
"""

from benchmarks.side_by_side import THREADS, Apart, compare, make_trainer, use_threads  # first: it sets the threads

import functools
import importlib.util
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfhf.losses.vocabulary import MeanTokenLoss
from tfhf.models.gpt2.config import PARAMETER_COUNTS, GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel

NEW_TOKENS = 64
OFF = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def _tokens():
    return np.random.default_rng(0).integers(0, 50000, (2, 256)).astype("int32")


def _step(model, jit_compile):
    """A train step of ours on `_tokens()`, as a function -> its loss."""
    ids = _tokens()
    step = tf.function(make_trainer(model, MeanTokenLoss()).train_step, jit_compile=jit_compile)
    data = tf.nest.map_structure(tf.constant, ({"input_ids": ids, "labels": ids}, ids, np.ones(2, "float32")))
    return lambda: float(step(data)["loss"])


def keras_hub_step(jit_compile):
    """The same of keras-hub's model, with Keras' own train step and AdamW."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    from keras_hub.models import GPT2Backbone, GPT2CausalLM

    model = GPT2CausalLM(GPT2Backbone(50257, 12, 12, 768, 3072, dropout=0.0))
    assert model.count_params() == PARAMETER_COUNTS["gpt2"], model.count_params()
    model.compile(optimizer=keras.optimizers.AdamW(1e-6), jit_compile=jit_compile, weighted_metrics=None,
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    ids = _tokens()
    step = tf.function(model.train_step, jit_compile=jit_compile)
    data = tf.nest.map_structure(tf.constant, ({"token_ids": ids, "padding_mask": np.ones_like(ids)}, ids))
    return lambda: float(step(data)["loss"])


def compare_keras_hub(model, rounds=7):
    """Train steps, plain and compiled by XLA, keras-hub's in a process of its own."""
    if not importlib.util.find_spec("keras_hub"):
        print("keras-hub is not installed: its train step is left out (pip install keras-hub)")
        return
    for jit_compile in (False, True):
        kind = "XLA" if jit_compile else "graph"
        ratio = compare(f"train step, 2 x 256, {kind}", _step(model, jit_compile),
                        Apart(functools.partial(keras_hub_step, jit_compile)), rounds, peer="keras-hub")
        print(f"  {1 / ratio:.2f} x keras-hub's tokens a second", flush=True)


def main_tpu(batch=8, length=1024):
    """Compiles the step, and prints what it takes."""
    from tfhf.preflight import compile_for_tpu
    from tfhf.preflight.chips import tpu_named

    keras.config.set_dtype_policy("mixed_bfloat16")
    config, tpu = GPT2Config(**OFF), tpu_named("v3-8")
    trainer = make_trainer(GPT2LMHeadModel(config), MeanTokenLoss(), clip_norm=1.0)
    model_flops = batch * length * (6 * (PARAMETER_COUNTS["gpt2"] - config.n_positions * config.n_embd)
                                    + 12 * config.n_layer * config.n_embd * length)
    for packed in (False, True)[:1 + ("--packed" in sys.argv)]:
        @tf.function(jit_compile=True)
        def step(ids, weights, *segments):
            inputs = {"input_ids": ids, "labels": ids} | ({"segment_ids": segments[0]} if segments else {})
            return trainer.train_step((inputs, ids, weights))["loss"]

        tokens = tf.TensorSpec((batch, length), tf.int32)
        compiled = compile_for_tpu(step, [tokens, tf.TensorSpec((batch,)), *[tokens] * packed])
        bound = tpu.bound(compiled.costs, 1)
        costs = compiled.costs
        print(f"{'packed' if packed else 'one text a row'}: {compiled}\n"
              f"  temporaries {compiled.temporary_bytes / 1e9:.2f} GB; "
              f"{costs.flops / 1e12:.2f} TFLOP, {bound.arithmetic * 1e3:.0f} ms; "
              f"{costs.bytes / 1e9:.1f} GB, {bound.memory * 1e3:.0f} ms; loops {len(costs.loops)}\n"
              f"  the model's {model_flops / 1e12:.2f} TFLOP: MFU at most {tpu.mfu(model_flops, bound.seconds):.0%} "
              f"(by the bytes alone {tpu.mfu(model_flops, bound.memory):.0%}); the compiler expects "
              f"{bound.compiler * 1e3:.0f} ms", flush=True)


def main():
    """Runs all comparisons."""
    import torch
    import transformers

    use_threads()
    transformers.logging.set_verbosity_error()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}, {THREADS} threads")
    model = GPT2LMHeadModel(GPT2Config(**OFF))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 50000, (1, 32)).astype("int32")
    ids = _tokens()
    answers = {}

    def run_ours():
        answers["ours"] = model.generate(prompt, max_new_tokens=NEW_TOKENS)

    def run_theirs():
        with torch.no_grad():
            answers["theirs"] = theirs.generate(
                torch.tensor(prompt).long(), attention_mask=torch.ones(1, 32), max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0).numpy()

    theirs.eval()
    ratio = compare(f"greedy, {NEW_TOKENS} tokens", run_ours, run_theirs, rounds=5)
    print(f"  {1 / ratio:.2f} x their tokens a second; the same tokens: {np.array_equal(*answers.values())}")

    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-6)

    def torch_step():
        optimizer.zero_grad()
        theirs(torch.tensor(ids).long(), labels=torch.tensor(ids).long()).loss.backward()
        optimizer.step()

    for jit_compile in (False, True):
        ratio = compare(f"train step, 2 x 256, {'XLA' if jit_compile else 'graph'}", _step(model, jit_compile),
                        torch_step, rounds=3)
        print(f"  {1 / ratio:.2f} x their tokens a second")
    compare_keras_hub(model)


if __name__ == "__main__":
    if "--tpu" in sys.argv:
        main_tpu()
    elif "--keras-hub" in sys.argv:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        compare_keras_hub(GPT2LMHeadModel(GPT2Config(**OFF)))
    else:
        main()
