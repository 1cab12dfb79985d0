"""GPT-2's generation: greedy, sampling and beams, for prompts of different lengths."""

import numpy as np
from keras import ops

from tfhf.decoding.beam_search import BeamSearch
from tfhf.decoding.compile import compiled_once
from tfhf.decoding.generation import Decoder, RepetitionPenalty, decode, left_padded, prefill
from tfhf.decoding.sampling import Sampling

PROMPT_STEP = 16  # prompts are padded to a multiple of this, so that not every length compiles anew


class GPT2GenerationMixin:
    """`generate` of `GPT2LMHeadModel`."""

    def decoder(self) -> Decoder:
        """The model as `tfhf.decoding.generation` takes it."""
        body = self.transformer

        def layer(block):
            return lambda x, bias, keys_values, beams: block(x, bias=bias, keys_values=keys_values)

        return Decoder(embed=lambda ids, positions: body.wte(ids) + body.wpe(positions),
                       layers=[layer(block) for block in body.h], logits=lambda x: body.logits(body.ln_f(x)),
                       max_positions=self.config.n_positions)

    def decode_tokens(self, prompt, prompt_lengths, temperature=0.0, seed=0, *, options, repetition_penalty=1.0,
                      xla=False):
        """The whole generation as one function of tensors, for `compiled` and for exports.

        Args:
            prompt: int32 [batch, length], padded on the left; length is static, batch need not be.
            prompt_lengths: int32 [batch].
            temperature: float32 scalar.
            seed: int32 scalar.
            options: `Sampling` or `BeamSearch`; the prompt and options.max_new_tokens fit config.n_positions.
            repetition_penalty: 1.0 does nothing.
            xla: whether XLA compiles it; False for an export.

        Returns:
            dict as `sample_loop` or `beam_loop` gives.
        """
        decoder = self.decoder()
        hidden, cache = prefill(decoder, prompt, prompt_lengths, options.max_new_tokens)
        rules = []
        if repetition_penalty != 1.0:
            rules = [RepetitionPenalty(repetition_penalty, self.config.vocab_size, prompt, prompt_lengths)]
        return decode(decoder, decoder.logits(hidden[:, -1]), cache, prompt, prompt_lengths, rules, options,
                      temperature, seed, xla)

    def generation_options(self, max_new_tokens, num_beams=1, length_penalty=1.0, stop_sequences=(), **sampling):
        """`Sampling`, or `BeamSearch` where num_beams is above 1, with the config's end and padding tokens."""
        config = self.config
        end = -1 if config.eos_token_id is None else config.eos_token_id  # -1: no token ends a text
        pad = max(end, 0) if config.pad_token_id is None else config.pad_token_id
        stops = tuple(tuple(int(token) for token in stop) for stop in stop_sequences)
        if not all(stops):
            raise ValueError(f"stop_sequences: got {stops}; expected lists of at least one token id.")
        common = dict(max_new_tokens=int(max_new_tokens), eos_token_id=end, pad_token_id=pad, stop_sequences=stops)
        if num_beams > 1:
            return BeamSearch(num_beams=int(num_beams), length_penalty=float(length_penalty), **common)
        return Sampling(**sampling, **common)

    def generate_with_scores(self, input_ids, attention_mask=None, max_new_tokens=64, temperature=0.0, top_k=0,
                             top_p=1.0, repetition_penalty=1.0, num_beams=1, length_penalty=1.0, stop_sequences=(),
                             seed=0, jit_compile=True):
        """New tokens behind each prompt, with their log-probabilities.

        Args:
            input_ids: lists of token ids, or an int array [batch, length].
            attention_mask: for an array whose shorter prompts are padded on the left: int [batch, length], 0 there.
            max_new_tokens: the end token included.
            temperature: 0 is greedy. Another temperature or seed does not compile again.
            top_k, top_p: only the likeliest tokens are drawn from; 0 and 1.0 are all (Holtzman et al. 2019).
            repetition_penalty: above 1 makes tokens that are there already less likely (Keskar et al. 2019).
            num_beams: above 1, beam search with `length_penalty`; temperature must be 0 then.
            stop_sequences: lists of token ids; a text ends behind the first of them, as it does with the end token.
            jit_compile: whether XLA compiles the loop.

        Returns:
            dict of arrays: sequences int32 [batch, max_new_tokens] (ended, then padded), lengths int32 [batch] without
            the end token, sum_logprobs float32 [batch]; with beams also scores.

        Raises:
            ValueError: an empty prompt, ids that are not the vocabulary's, more tokens than the model has positions,
                or settings that do not go together.
        """
        config, options = self.config, self.generation_options(
            max_new_tokens, num_beams, length_penalty, stop_sequences, top_k=int(top_k), top_p=float(top_p),
            sample=temperature > 0)
        _check(temperature, top_k, top_p, repetition_penalty, num_beams, max_new_tokens, config.vocab_size)
        prompt, lengths = left_padded(input_ids, options.pad_token_id, attention_mask)
        if prompt.min() < 0 or prompt.max() >= config.vocab_size:
            raise ValueError(f"input_ids: got ids from {prompt.min()} to {prompt.max()}; expected 0 to "
                             f"{config.vocab_size - 1}.")
        most = config.n_positions - max_new_tokens
        if prompt.shape[1] > most:
            raise ValueError(f"prompt {lengths.argmax()}: {lengths.max()} tokens and max_new_tokens={max_new_tokens} "
                             f"exceed the model's n_positions={config.n_positions}.")
        width = min(-(-prompt.shape[1] // PROMPT_STEP) * PROMPT_STEP, most)
        prompt = np.pad(prompt, ((0, 0), (width - prompt.shape[1], 0)), constant_values=options.pad_token_id)
        run = compiled_once(self, "decode", self.decode_tokens, jit_compile, options=options, xla=jit_compile,
                            repetition_penalty=float(repetition_penalty))
        result = run(ops.convert_to_tensor(prompt), ops.convert_to_tensor(lengths),
                     ops.convert_to_tensor(temperature, "float32"), ops.convert_to_tensor(seed, "int32"))
        return {name: ops.convert_to_numpy(value) for name, value in result.items()}

    def generate(self, input_ids, attention_mask=None, max_new_tokens=64, **options):
        """Prompts and their continuations, int32 [batch, length + max_new_tokens]: padded on the left as the prompts
        are, ended by the end token and padded behind it. Arguments and errors: `generate_with_scores`."""
        result = self.generate_with_scores(input_ids, attention_mask, max_new_tokens, **options)
        prompt, _ = left_padded(input_ids, self.generation_options(max_new_tokens).pad_token_id, attention_mask)
        return np.concatenate([prompt, result["sequences"]], axis=1)


def _check(temperature, top_k, top_p, repetition_penalty, num_beams, max_new_tokens, vocab_size):
    for name, value, right, expected in (
            ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
            ("temperature", temperature, temperature >= 0, "at least 0"),
            ("temperature", temperature, temperature == 0 or num_beams == 1, "0 with beams"),
            ("top_k", top_k, 0 <= top_k <= vocab_size, f"0 to {vocab_size}"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
            ("repetition_penalty", repetition_penalty, repetition_penalty > 0, "above 0"),
            ("num_beams", num_beams, num_beams >= 1, "at least 1")):
        if not right:
            raise ValueError(f"{name}: got {value}; expected {expected}.")
