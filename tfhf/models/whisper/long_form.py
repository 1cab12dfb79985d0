"""Transcripts of audio of any length: 30-second windows advanced by the predicted timestamps (paper, section 4.5).

Files are decoded side by side, each at its own place; batches and prompts have fixed shapes, so that the decoder is
compiled at most three times: short prompts, long prompts, and the sampling of the fallback. A clip that fits one window
is judged by the same rules as a window of a long one.
"""

import os
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from keras import ops

FRAMES_PER_SECOND = 100
HOP_SAMPLES = 160
SECONDS_PER_TIMESTAMP = 0.02
FRAMES_PER_TIMESTAMP = 2


@dataclass(frozen=True)
class LongFormOptions:
    """How windows are decoded; the values are OpenAI's.

    Attributes:
        batch_size: windows decoded at once; short batches are filled up, so that the shape stays.
        temperatures: tried in turn until a window's text is good enough.
        compression_ratio_threshold: text that zlib packs tighter than this is a loop; None: none is.
        logprob_threshold: mean log-probability of a token below which the text is a guess; None: none is.
        no_speech_threshold: probability of <|nospeech|> above which a guess is taken for silence; None: none is.
        condition_on_previous_text: whether the text before is given as a prompt.
        prompt: text that is given as what was said before the beginning: names, spelling, style.
        num_beams: beams at temperature 0.
    """

    batch_size: int = 8
    temperatures: tuple = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    prompt: str | None = None
    num_beams: int = 1
    max_new_tokens: int | None = None
    seed: int = 0


@dataclass
class _File:
    """One recording on its way: where it stands, and what has been heard so far."""

    features: np.ndarray  # [frames + window, mels]
    frames: int
    seconds: float
    language: str | None
    seek: int = 0
    tokens: list = field(default_factory=list)
    prompt_start: int = 0
    segments: list = field(default_factory=list)


def transcribe(model, processor, audio, language=None, task="transcribe", return_timestamps=False, progress=None,
               **options):
    """Text of recordings.

    Args:
        model: `WhisperForConditionalGeneration`.
        processor: its `WhisperProcessor`.
        audio: path, or float waveform [samples] at 16 kHz in [-1, 1]; or a list of either, which is a batch.
        language: code, English name or tag such as "pt-BR"; None detects it from the first window (multilingual
            models).
        task: "transcribe" or "translate".
        return_timestamps: whether clips of 30 s and less are decoded with timestamps too; longer ones always are.
        progress: function (number of the recording, seconds done), called after each window and at each end.
        options: fields of `LongFormOptions`.

    Returns:
        {"text", "language", "segments"}, each segment with id, start and end in seconds, text, tokens, temperature,
        avg_logprob, compression_ratio, no_speech_prob; or a list of them. Where nothing was said, the text is empty and
        there are no segments. No segment ends behind the audio.

    Raises:
        AudioError: a file that cannot be used. ValueError: an empty waveform, or one of another shape or type; an
        unknown language, or one that the model cannot do; a prompt that is too long; a processor of another vocabulary.
    """
    options = LongFormOptions(**options)
    language = model.special_tokens.check_request(language, task)
    if processor.tokenizer.special != model.special_tokens:
        raise ValueError(f"The processor's tokenizer ({processor.tokenizer.path}) has {processor.tokenizer.special}; "
                         f"expected the model's {model.special_tokens}.")
    options = replace(options, prompt=prompt_ids(processor, options.prompt, model.config.max_target_positions))
    progress = progress or (lambda number, seconds: None)
    single = not isinstance(audio, (list, tuple))
    waveforms = [_waveform(item, number) for number, item in enumerate([audio] if single else audio)]
    long = [i for i, waveform in enumerate(waveforms)
            if return_timestamps or len(waveform) > model.config.max_samples]
    short = [i for i in range(len(waveforms)) if i not in set(long)]
    results = {}
    for numbers, decode in ((short, _short), (long, _long)):
        def report(place, seconds, numbers=numbers):
            progress(numbers[place], seconds)

        chosen = [waveforms[i] for i in numbers]
        results.update(zip(numbers, decode(model, processor, chosen, language, task, options, report)))
    ordered = [results[i] for i in range(len(waveforms))]
    return ordered[0] if single else ordered


def prompt_ids(processor, prompt, context):
    """The tokens of a prompt, as OpenAI gives it; () of None. `context`: positions of the decoder.

    Raises:
        ValueError: they are more than half the decoder's positions.
    """
    ids = processor.tokenizer.encode(" " + prompt.strip()) if prompt and prompt.strip() else ()
    most = context // 2 - 1
    if len(ids) > most:
        raise ValueError(f"prompt: {prompt.strip()[:60]!r} has {len(ids)} tokens; expected at most {most}.")
    return tuple(ids)


def _waveform(item, number):
    if isinstance(item, (str, os.PathLike)):
        from tfhf.data.audio import load_audio

        return load_audio(item)
    waveform = np.asarray(item)
    if waveform.dtype == np.int16:
        waveform = waveform.astype("float32") / 32768.0
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise ValueError(f"audio {number}: got shape {waveform.shape} of {waveform.dtype}; expected a path, or a mono "
                         "waveform [samples] of floats at 16 kHz.")
    if not len(waveform):
        raise ValueError(f"audio {number}: 0 samples; expected at least one.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"audio {number}: holds NaN or infinite samples.")
    return waveform.astype("float32")


def _in_batches(count, size):
    """Index arrays of `size` with the number of real ones; the last index fills up."""
    for start in range(0, count, size):
        real = min(size, count - start)
        yield np.minimum(np.arange(start, start + size), count - 1), real


def _short(model, processor, waveforms, language, task, options, progress):
    """Clips that fit one window: decoded without timestamps, and judged as the windows of long ones are."""
    special, results = model.special_tokens, []
    size = min(options.batch_size, max(len(waveforms), 1))
    for chosen, real in _in_batches(len(waveforms), size):
        inputs = {"input_values": np.stack([processor.feature_extractor.pad(waveforms[i]) for i in chosen])}
        languages = [language or "en"] * size
        if language is None and special.multilingual:
            languages, _ = model.detect_language(inputs)
        prefixes = [special.prefix(code, task, timestamps=False) for code in languages]
        previous = [special.start_of_previous, *options.prompt] if options.prompt else []
        prompts = np.array([previous + prefix for prefix in prefixes], "int32")
        limit = options.max_new_tokens or model.config.max_target_positions - prompts.shape[1]
        decoded = _with_fallback(model, processor, inputs, prompts, None, real, options, max_new_tokens=limit,
                                 timestamps=False, prefix_length=len(prefixes[0]), seed=options.seed + int(chosen[0]))
        for row, (tokens, judged) in enumerate(decoded):
            seconds = len(waveforms[chosen[row]]) / processor.feature_extractor.sampling_rate
            text, segments = processor.tokenizer.decode(tokens).strip(), []
            if _is_silence(judged, options):
                text = ""
            if text:
                segments = [{"id": 0, **_segment(0.0, seconds, text, tokens, judged)}]
            results.append({"text": text, "language": languages[row], "segments": segments})
            progress(int(chosen[row]), seconds)
    return results


def _with_fallback(model, processor, inputs, prompts, lengths, real, options, *, seed, **how):
    """Tokens and scores of each of the first `real` rows, over the temperatures of the fallback."""
    answers = [None] * real
    for number, temperature in enumerate(options.temperatures):
        answer = model.generate_with_scores(inputs, prompts, lengths, temperature=temperature, seed=seed + number,
                                            num_beams=options.num_beams if temperature == 0 else 1, **how)
        for row in range(real):
            if answers[row] is None or answers[row][2]:
                judged = _judged(processor, answer, row, temperature)
                tokens = answer["sequences"][row, :answer["lengths"][row]].tolist()
                answers[row] = tokens, judged, _is_poor(judged, options)
        if not any(poor for _, _, poor in answers):
            break
    return [(tokens, judged) for tokens, judged, _ in answers]


def _features(model, waveform):
    """Log-mel of a whole recording and a window of silence after it, clamped by the recording's own maximum.

    In blocks of one window, so that memory does not grow with the STFT of an hour, and one shape is traced.
    """
    layer, samples = model.log_mel, model.config.max_samples
    half = layer.window_samples // 2
    frames = -(-len(waveform) // layer.hop_samples)
    blocks = -(-frames // (samples // layer.hop_samples)) + 1
    mirrored = waveform[1:half + 1][::-1]  # what centring does at the very beginning
    padded = np.concatenate([np.zeros(half - len(mirrored), "float32"), mirrored, waveform,
                             np.zeros(blocks * samples + half - len(waveform), "float32")])
    power = [ops.convert_to_numpy(layer.log_power(padded[None, i * samples:(i + 1) * samples + 2 * half - 1],
                                                  center=False))[0] for i in range(blocks)]
    return ops.convert_to_numpy(layer.scale(np.concatenate(power)[None]))[0], frames


def _long(model, processor, waveforms, language, task, options, progress):
    rate = processor.feature_extractor.sampling_rate
    files = [_File(*_features(model, waveform), len(waveform) / rate, language, tokens=list(options.prompt))
             for waveform in waveforms]
    window = model.config.max_samples // model.log_mel.hop_samples
    size = min(options.batch_size, max(len(files), 1))
    if model.special_tokens.multilingual and language is None:
        for chosen, real in _in_batches(len(files), size):
            first = np.stack([files[i].features[:window].T for i in chosen])
            for index, code in list(zip(chosen, model.detect_language(first)[0]))[:real]:
                files[index].language = code
    while True:
        waiting = [(number, file) for number, file in enumerate(files) if file.seek < file.frames][:size]
        if not waiting:
            break
        decoded = _decode(model, processor, [file for _, file in waiting], window, size, task, options)
        for (number, file), (tokens, judged) in zip(waiting, decoded):
            _advance(model, processor, file, tokens, judged, window, options)
            progress(number, min(file.seek / FRAMES_PER_SECOND, file.seconds))
    results = []
    for file in files:
        # The tokens of all segments in one piece: a character may be split over two of them.
        spoken = [token for segment in file.segments for token in segment["tokens"]]
        results.append({"text": processor.tokenizer.decode(spoken).strip(), "language": file.language or "en",
                        "segments": [{"id": i, **segment} for i, segment in enumerate(file.segments)]})
    return results


def _decode(model, processor, files, window, size, task, options):
    """Tokens and scores of the next window of each file."""
    special, context = model.special_tokens, model.config.max_target_positions
    rows = [files[min(i, len(files) - 1)] for i in range(size)]
    features = np.stack([row.features[row.seek:row.seek + window].T for row in rows])
    prefixes = [special.prefix(row.language, task, timestamps=True) for row in rows]
    most = context // 2 - 1
    previous = [row.tokens[row.prompt_start:][-most:] for row in rows]
    prompts = [([special.start_of_previous] + old if old else []) + prefix for old, prefix in zip(previous, prefixes)]
    length = (most + 1 if any(previous) else 0) + len(prefixes[0])
    padded = np.array([[special.end] * (length - len(prompt)) + prompt for prompt in prompts], "int32")
    lengths = np.array([len(prompt) for prompt in prompts], "int32")
    limit = min(options.max_new_tokens or context, context - most - 1 - len(prefixes[0]))
    return _with_fallback(model, processor, features, padded, lengths, len(files), options, max_new_tokens=limit,
                          timestamps=True, prefix_length=len(prefixes[0]), seed=options.seed + files[0].seek)


def _judged(processor, answer, row, temperature):
    length = int(answer["lengths"][row])
    text = processor.tokenizer.decode(answer["sequences"][row, :length].tolist()).strip().encode("utf-8")
    return {"temperature": temperature, "avg_logprob": float(answer["sum_logprobs"][row]) / (length + 1),
            "compression_ratio": len(text) / max(len(zlib.compress(text)), 1),
            "no_speech_prob": float(answer["no_speech_prob"][row])}


def _is_guess(judged, options):
    return options.logprob_threshold is not None and judged["avg_logprob"] < options.logprob_threshold


def _is_silence(judged, options):
    """OpenAI's rule: <|nospeech|> is likely and the text is a guess; likely alone where no guess is judged."""
    if options.no_speech_threshold is None or judged["no_speech_prob"] <= options.no_speech_threshold:
        return False
    return options.logprob_threshold is None or _is_guess(judged, options)


def _is_poor(judged, options):
    if _is_silence(judged, options):
        return False
    limit = options.compression_ratio_threshold
    return _is_guess(judged, options) or limit is not None and judged["compression_ratio"] > limit


def _segment(start, end, text, tokens, judged):
    return {"start": round(start, 3), "end": round(end, 3), "text": text, "tokens": tokens, **judged}


def _advance(model, processor, file, tokens, judged, window, options):
    """Cuts the window's tokens into segments and moves the file on to the last whole one's end."""
    special, offset = model.special_tokens, file.seek / FRAMES_PER_SECOND
    size = min(window, file.frames - file.seek)
    if _is_silence(judged, options):
        file.seek += size
        return
    is_time = [bool(special.is_timestamp(token)) for token in tokens]
    pairs = [i for i in range(1, len(tokens)) if is_time[i] and is_time[i - 1]]
    ends_open = len(tokens) >= 2 and is_time[-1] and not is_time[-2]  # nothing is spoken after the last timestamp

    def seconds(token):
        return (token - special.first_timestamp) * SECONDS_PER_TIMESTAMP

    pieces, moved = [], size
    if pairs:
        cuts = pairs + ([len(tokens)] if ends_open else [])
        pieces = [tokens[i:j] for i, j in zip([0, *cuts], cuts)]
        spans = [(seconds(piece[0]), seconds(piece[-1])) for piece in pieces]
        if not ends_open:
            moved = (tokens[cuts[-1] - 1] - special.first_timestamp) * FRAMES_PER_TIMESTAMP
    else:
        times = [token for token, marks_time in zip(tokens, is_time) if marks_time]
        end = seconds(times[-1]) if times and times[-1] != special.first_timestamp else size / FRAMES_PER_SECOND
        begin = seconds(times[0]) if times and tokens[0] == times[0] else 0.0
        pieces, spans = [tokens], [(begin if begin < end else 0.0, end)]
    for piece, (start, end) in zip(pieces, spans):
        words = [token for token in piece if token < special.end or token > special.last_timestamp]
        text = processor.tokenizer.decode(words).strip()
        if text and end > start:
            _add_segment(file, processor, offset, offset + start, offset + end, words, judged)
            file.tokens += piece
    if not options.condition_on_previous_text or judged["temperature"] > 0.5:
        file.prompt_start = len(file.tokens)
    # A window that claims to end where it began would be decoded for ever.
    file.seek += moved if moved > 0 else size


def _add_segment(file, processor, offset, start, end, words, judged):
    """Writes down what was said from `start` to `end`, within the audio: the model may mark times in the padding.

    What it puts wholly behind the end belongs to the segment before, or begins with the window at `offset`.
    """
    end = min(end, file.seconds)
    if start >= end:
        if file.segments and file.segments[-1]["start"] >= offset:
            start, words = file.segments[-1]["start"], file.segments.pop()["tokens"] + words
        else:
            start = offset
    text = processor.tokenizer.decode(words).strip()
    file.segments.append(_segment(start, end, text, words, judged))
