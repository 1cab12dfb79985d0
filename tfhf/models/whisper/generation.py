"""Whisper's generation: prefill of the prompt, a compiled loop over a static cache, the decoding rules of the paper."""

import numpy as np
from keras import ops

from tfhf.decoding.beam_search import BeamSearch
from tfhf.decoding.compile import compiled_once
from tfhf.decoding.generation import Decoder, decode, prefill
from tfhf.decoding.sampling import MASKED_LOGIT, Sampling
from tfhf.models.whisper.special_tokens import LANGUAGES, SpecialTokens


class SuppressTokens:
    """Never writes `tokens`, and never begins with `first_tokens`."""

    def __init__(self, vocab_size, tokens, first_tokens):
        self.always = np.zeros(vocab_size, "float32")
        self.always[list(tokens)] = MASKED_LOGIT
        self.first = self.always.copy()
        self.first[list(first_tokens)] = MASKED_LOGIT

    def start(self, batch):
        """No state."""
        return ()

    def apply(self, logits, index, state):
        """logits float32 [batch, vocabulary] -> the same, masked."""
        return ops.maximum(logits + ops.where(ops.equal(index, 0), self.first, self.always)[None], MASKED_LOGIT)

    def advance(self, state, token, index):
        """No state."""
        return state


class TimestampRules:
    """Timestamps come in pairs, never fall, begin the text, and are written whenever together they are likelier than
    any word (paper, section 4.5, and OpenAI's ApplyTimestampRules)."""

    def __init__(self, vocab_size, special, max_initial_timestamp=50):
        ids = np.arange(vocab_size)
        self.is_time = special.is_timestamp(ids)
        self.is_text = (ids < special.end) | (ids > special.last_timestamp)   # added tokens stand behind the timestamps
        self.ids, self.special, self.max_initial = ids.astype("int32"), special, max_initial_timestamp

    def start(self, batch):
        """State: whether the last token and the one before were timestamps, and the latest timestamp."""
        yes, no = ops.ones((batch,), "bool"), ops.zeros((batch,), "bool")
        return no, yes, ops.full((batch,), self.special.first_timestamp - 1, dtype="int32")

    def apply(self, logits, index, state):
        """logits float32 [batch, vocabulary] -> the same, masked."""
        last, before, latest = (s[:, None] for s in state)
        first = ops.equal(index, 0)
        forbidden = ops.equal(self.ids, self.special.no_timestamps)[None]
        # After a closed pair comes text or a new opening; after a single timestamp its partner or the end.
        forbidden = ops.logical_or(forbidden, ops.logical_and(ops.logical_and(last, before), self.is_time[None]))
        single = ops.logical_and(last, ops.logical_not(before))
        forbidden = ops.logical_or(forbidden, ops.logical_and(single, self.is_text[None]))
        # The partner of a single timestamp may repeat it; any other must be later.
        least = ops.where(single, latest, latest + 1)
        forbidden = ops.logical_or(forbidden, ops.logical_and(self.is_time[None], self.ids[None] < least))
        too_late = self.ids > self.special.first_timestamp + self.max_initial
        beginning = np.logical_or(~self.is_time, too_late)[None]
        forbidden = ops.logical_or(forbidden, ops.logical_and(first, beginning))
        logits = ops.where(forbidden, MASKED_LOGIT, logits)
        times = ops.logsumexp(ops.where(self.is_time[None], logits, MASKED_LOGIT), axis=-1, keepdims=True)
        best_text = ops.max(ops.where(self.is_time[None], MASKED_LOGIT, logits), axis=-1, keepdims=True)
        return ops.where(ops.logical_and(times > best_text, ~self.is_time[None]), MASKED_LOGIT, logits)

    def advance(self, state, token, index):
        """State after `token` int32 [batch]."""
        last, _, latest = state
        is_time = self.special.is_timestamp(token)
        # The opening timestamp counts as a closed pair: text follows it.
        return is_time, ops.logical_or(last, ops.equal(index, 0)), ops.where(is_time, token, latest)


class WhisperGenerationMixin:
    """`generate`, `detect_language` and `transcribe` of `WhisperForConditionalGeneration`."""

    _special_tokens = None

    @property
    def special_tokens(self):
        """Ids of the special tokens: those of the checkpoint's files, or else of the published family of this config.

        Raises:
            ValueError: as `SpecialTokens.of`.
        """
        return self._special_tokens or SpecialTokens.of(self.config)

    def known_special_tokens(self):
        """`special_tokens`, or None where nothing tells them."""
        return self._special_tokens or SpecialTokens.published(self.config)

    def set_special_tokens(self, special):
        """Takes the special tokens of a tokenizer, such as `WhisperTokenizer("tokenizer.json").special`; of None, those
        of the published family.

        Raises:
            ValueError: the vocabulary has no room for them.
        """
        if special is not None and special.count > self.config.vocab_size:
            raise ValueError(f"vocab_size={self.config.vocab_size}: expected at least {special.count}, since the "
                             f"tokenizer's last timestamp has the id {special.last_timestamp}.")
        self._special_tokens = special

    def encode(self, inputs):
        """Keys and values of every decoder layer's attention to the encoder: tuple of pairs [batch, heads, source,
        head_dim], from a dict with `input_values` or `input_features`."""
        hidden = self.model.encoder(self.features(inputs))
        return tuple(layer.encoder_attn.project_keys_values(hidden) for layer in self.model.decoder.layers)

    def decode_tokens(self, cross, prompt, prompt_lengths, temperature, seed, *, options, timestamps, no_speech, xla):
        """The whole decoding as one function of tensors, for `compiled` and for exports.

        Args:
            cross: from `encode`.
            prompt: int32 [batch, prompt], padded on the left.
            prompt_lengths: int32 [batch].
            temperature: float32 scalar.
            seed: int32 scalar.
            options: `Sampling` or `BeamSearch`.
            timestamps: whether timestamp rules apply.
            no_speech: tokens from <|startoftranscript|> to the prompt's end (both counted), where the probability of
                <|nospeech|> is read.
            xla: whether XLA compiles it.

        Returns:
            dict as `sample_loop` or `beam_loop` gives, and `no_speech_prob` float32 [batch].
        """
        config, text = self.config, self.model.decoder

        def of(layer, keys_values):
            def call(x, bias, remember, beams):
                return layer(x, self_bias=bias, cross_keys_values=keys_values, beams=beams, self_keys_values=(
                    lambda normed: remember(*layer.self_attn.project_keys_values(normed))))
            return call

        decoder = Decoder(embed=text.embed, layers=[of(*pair) for pair in zip(text.layers, cross)],
                          logits=lambda x: text.logits(text.layer_norm(x)), max_positions=config.max_target_positions)
        x, cache = prefill(decoder, prompt, prompt_lengths, options.max_new_tokens)
        at_start = ops.softmax(decoder.logits(x[:, -no_speech]), axis=-1)[:, self.special_tokens.no_speech]
        generation = getattr(self, "generation_config", None) or {}
        rules = [SuppressTokens(config.vocab_size, generation.get("suppress_tokens") or (),
                                generation.get("begin_suppress_tokens") or ())]
        if timestamps:
            rules.append(TimestampRules(config.vocab_size, self.special_tokens,
                                        generation.get("max_initial_timestamp_index", 50)))
        result = decode(decoder, decoder.logits(x[:, -1]), cache, prompt, prompt_lengths, rules, options, temperature,
                        seed, xla)
        return {**result, "no_speech_prob": at_start}

    def language_probabilities(self, inputs):
        """Probabilities of the languages, float32 [batch, languages], from a dict of input tensors."""
        special = self.special_tokens
        start = ops.full((ops.shape(next(iter(inputs.values())))[0], 1), special.start, dtype="int32")
        logits = self({**inputs, "decoder_input_ids": start})[:, 0]
        return ops.softmax(logits[:, special.first_language:special.first_language + special.num_languages])

    def transcript_tokens(self, inputs, language, task, max_new_tokens, num_beams=1):
        """New tokens int32 [batch, max_new_tokens] as a function of tensors, for an export: nothing here needs XLA.

        `inputs` and the other arguments are those of `generate`; `language` None is detected in the graph.
        """
        special, batch = self.special_tokens, ops.shape(next(iter(inputs.values())))[0]
        detect = special.multilingual and language is None
        prefix = special.prefix("en" if detect else language, task, timestamps=False)
        prompt = ops.tile(ops.convert_to_tensor([prefix], dtype="int32"), (batch, 1))
        if detect:
            likeliest = ops.argmax(self.language_probabilities(inputs), axis=-1)
            detected = special.first_language + ops.cast(likeliest, "int32")
            prompt = ops.concatenate([prompt[:, :1], detected[:, None], prompt[:, 2:]], axis=1)
        options = self._options(max_new_tokens, num_beams, 1.0, sample=False)
        lengths = ops.full((batch,), len(prefix), dtype="int32")
        return self.decode_tokens(self.encode(inputs), prompt, lengths, 0.0, 0, options=options, timestamps=False,
                                  no_speech=len(prefix), xla=False)["sequences"]

    def _options(self, max_new_tokens, num_beams, length_penalty, **sampling):
        end = self.special_tokens.end
        common = dict(max_new_tokens=int(max_new_tokens), eos_token_id=end, pad_token_id=end)
        if num_beams > 1:
            return BeamSearch(num_beams=num_beams, length_penalty=float(length_penalty), **common)
        return Sampling(**sampling, **common)

    def generate_with_scores(self, input_features, prompt_ids, prompt_lengths=None, max_new_tokens=224,
                             temperature=0.0, num_beams=1, timestamps=False, seed=0, top_k=0, top_p=1.0,
                             length_penalty=1.0, prefix_length=None, jit_compile=None):
        """New tokens after a prompt, with their log-probabilities.

        Args:
            input_features: float32 [batch, num_mel_bins, frames], or a dict with `input_values`.
            prompt_ids: int32 [batch, prompt], padded on the left.
            prompt_lengths: int32 [batch]; None when nothing is padded.
            max_new_tokens: the end token included; prompt and new tokens must fit max_target_positions.
            temperature: 0 is greedy. Another temperature or seed does not compile again.
            num_beams: above 1, beam search with `length_penalty`; temperature must be 0 then.
            timestamps: apply the timestamp rules.
            prefix_length: tokens from <|startoftranscript|> to the end of the prompt; None: the whole prompt.
            jit_compile: whether XLA compiles the loop; None: yes.

        Returns:
            dict of arrays: sequences int32 [batch, max_new_tokens] (ended, then padded), lengths int32 [batch] without
            the end token, sum_logprobs float32 [batch], no_speech_prob float32 [batch].

        Raises:
            ValueError: too many tokens for the decoder, or beams with a temperature.
        """
        prompt_ids = np.asarray(prompt_ids, "int32")
        batch, length = prompt_ids.shape
        if length + max_new_tokens > self.config.max_target_positions + 1:
            raise ValueError(f"A prompt of {length} and max_new_tokens={max_new_tokens} exceed the decoder's "
                             f"{self.config.max_target_positions} positions.")
        if num_beams > 1 and temperature > 0:
            raise ValueError(f"Beam search (num_beams={num_beams}) takes temperature 0; got {temperature}.")
        lengths = np.full(batch, length, "int32") if prompt_lengths is None else np.asarray(prompt_lengths, "int32")
        options = self._options(max_new_tokens, num_beams, length_penalty, top_k=top_k, top_p=top_p,
                                sample=temperature > 0)
        inputs = input_features if isinstance(input_features, dict) else {"input_features": input_features}
        xla = True if jit_compile is None else jit_compile
        inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        cross = compiled_once(self, "encode", self.encode, False)(inputs)
        decode = compiled_once(self, "decode", self.decode_tokens, xla, options=options, timestamps=timestamps,
                                no_speech=prefix_length or length, xla=xla)
        result = decode(cross, ops.convert_to_tensor(prompt_ids), ops.convert_to_tensor(lengths),
                        ops.convert_to_tensor(temperature, "float32"), ops.convert_to_tensor(seed, "int32"))
        return {name: ops.convert_to_numpy(value) for name, value in result.items()}

    def detect_language(self, input_features):
        """Likeliest language of each clip and the probabilities of all (paper, section 2.3).

        Args:
            input_features: as in `generate`.

        Returns:
            list of codes, and float32 [batch, languages].

        Raises:
            ValueError: the model knows English only.
        """
        if not self.special_tokens.multilingual:
            raise ValueError("An English-only model cannot detect languages.")
        inputs = input_features if isinstance(input_features, dict) else {"input_features": input_features}
        inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        probabilities = ops.convert_to_numpy(compiled_once(self, "detect", self.language_probabilities, False)(inputs))
        return [LANGUAGES[i] for i in probabilities.argmax(-1)], probabilities

    def generate(self, input_features, language=None, task="transcribe", return_timestamps=False, num_beams=1,
                 max_new_tokens=None, temperature=0.0, top_k=0, top_p=1.0, length_penalty=1.0, seed=0,
                 jit_compile=None, decoder_input_ids=None):
        """Token ids of the transcript of each clip, the opening tokens included.

        Args:
            input_features: float32 [batch, num_mel_bins, 2 * max_source_positions], or a dict with `input_values`
                [batch, max_samples].
            language: code or English name, such as "en", or a list of one for each clip; None, also in the list,
                detects it, clip by clip, in a multilingual model.
            task: "transcribe", or "translate" into English.
            max_new_tokens: None fills the decoder.
            decoder_input_ids: int [batch, prefix], the opening tokens of each clip, in the place of those that
                `language`, `task` and `return_timestamps` stand for.
            Others: as in `generate_with_scores`.

        Returns:
            int32 array [batch, prefix + max_new_tokens]: ended by the end token and padded with it.

        Raises:
            ValueError: an unknown language or task, or more tokens than the decoder has positions.
        """
        special = self.special_tokens
        inputs = input_features if isinstance(input_features, dict) else {"input_features": input_features}
        batch = next(iter(inputs.values())).shape[0]
        if decoder_input_ids is not None:
            prompt = np.array(decoder_input_ids, "int32")
        else:
            languages = list(language) if isinstance(language, (list, tuple)) else [language] * batch
            if len(languages) != batch:
                raise ValueError(f"language: got a list of {len(languages)}; expected one for each of {batch} clips.")
            if special.multilingual and None in languages:
                heard, _ = self.detect_language(inputs)
                languages = [given or found for given, found in zip(languages, heard)]
            prompt = np.array([special.prefix(code, task, return_timestamps) for code in languages], "int32")
        if max_new_tokens is None:
            max_new_tokens = self.config.max_target_positions - prompt.shape[1]
        result = self.generate_with_scores(
            inputs, prompt, max_new_tokens=max_new_tokens, temperature=temperature, num_beams=num_beams, top_k=top_k,
            top_p=top_p, length_penalty=length_penalty, seed=seed, timestamps=return_timestamps,
            jit_compile=jit_compile)
        return np.concatenate([prompt, result["sequences"]], axis=1)

    processor = None  # the model's WhisperProcessor; `transcribe` loads the one beside the weights when it is not set
    pretrained_folder = None

    def transcribe(self, audio, language=None, task="transcribe", return_timestamps=False, **options):
        """Text of a file or of a waveform at 16 kHz, of any length; a list of either is a batch.

        Returns:
            {"text", "language", "segments"}, or a list of them. See `long_form.transcribe` for the options and errors.

        Raises:
            ValueError: the model did not come from a folder, and `model.processor` is not set.
        """
        from tfhf.models.whisper.long_form import transcribe
        from tfhf.models.whisper.processor import WhisperProcessor

        if self.processor is None:
            if self.pretrained_folder is None:
                raise ValueError("This model was not loaded from a folder: set model.processor first.")
            self.processor = WhisperProcessor.from_pretrained(self.pretrained_folder)
        return transcribe(self, self.processor, audio, language=language, task=task,
                          return_timestamps=return_timestamps, **options)
