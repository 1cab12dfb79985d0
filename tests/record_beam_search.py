"""Records what pyctcdecode finds in real logits, for tests/decoding/test_pyctcdecode.py.

pyctcdecode wants an older NumPy than TensorFlow, so this runs in an environment of its own, from the repository:

    python3 -m venv build/peers
    build/peers/bin/pip install pyctcdecode==0.5.0 kenlm==0.3.0 hama==1.3.13
    build/peers/bin/python -m tests.record_beam_search PROMPTS [LOGITS.npz]

PROMPTS: the folder `en` of the asset asterisk-prompts (568 recordings, CC-BY-SA-3.0). The logits are those of hama's
CTC phoneme recogniser (Apache-2.0) over them, 191 symbols; LOGITS.npz keeps them between runs. Recorded are the symbols
of each frame with log p >= -5, which is all that pyctcdecode looks at, and its answers to just these.

pyctcdecode 0.5.0 scores the empty string behind a delimiter at the end, and an empty answer, as an unknown word, which
costs them some ten nats. Stock answers are recorded (`stock_*`) and those of a language model that gives an empty word
nothing, which is what its own paper's formula says.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.decoding.arpa import estimate

SYMBOLS, DELIMITER, BLANK = 191, 189, 190
LETTERS = [chr(0x4E00 + symbol) for symbol in range(SYMBOLS)]   # one character each
LETTERS[DELIMITER], LETTERS[BLANK] = " ", ""
LEAST, NEVER, STEP = -5.0, -50.0, 0.005
HOT_WORDS = 12


def greedy_words(scores):
    """The words of the likeliest path of log-probabilities [frames, symbols]."""
    return "".join(LETTERS[symbol] for symbol, _ in itertools.groupby(scores.argmax(-1))).split()


def dense(frames, places, values):
    """[frames, symbols] float32 of the recorded places (frame * SYMBOLS + symbol) and values (in -STEP)."""
    scores = np.full(frames * SYMBOLS, NEVER, "float32")
    scores[places] = -STEP * values
    return scores.reshape(frames, SYMBOLS)


def language_model(every):
    """ARPA text of a trigram model of every second clip's greedy words."""
    return estimate([words for words in map(greedy_words, every[::2]) if words], 3)


def hot_words(every):
    """The commonest longer words of every second clip."""
    counts = {}
    for words in map(greedy_words, every[::2]):
        for word in words:
            counts[word] = counts.get(word, 0) + (len(word) >= 4)
    return sorted(counts, key=lambda word: (-counts[word], word))[:HOT_WORDS]


def _recognise(prompts):
    from hama.asr import ASRModel, _resample_linear, read_wav_mono

    model, found = ASRModel(), []
    for path in sorted(Path(prompts).rglob("*.wav")):
        sound, rate = read_wav_mono(path)
        sound = _resample_linear(sound, rate, 16000)
        if len(sound) >= 1600:
            scores, lengths = model.session.run(
                [model._log_probs_output_name, model._out_lengths_output_name],
                {model._waveform_input_name: sound[None],
                 model._waveform_lengths_input_name: np.array([len(sound)], np.int64)})
            found.append(scores[0][:int(lengths[0])].astype(np.float32))
    return found


def main(prompts, kept=None):
    """Writes the fixture."""
    import kenlm
    from pyctcdecode import Alphabet, BeamSearchDecoderCTC
    from pyctcdecode.language_model import LanguageModel, load_unigram_set_from_arpa

    class EmptyWordsAreFree(LanguageModel):
        def score(self, prev_state, word, is_last_word=False):
            if word:
                return super().score(prev_state, word, is_last_word)
            end = self._get_raw_end_score(prev_state) if is_last_word else 0.0
            return self.alpha * end * np.log(10), prev_state

    if kept and Path(kept).exists():
        loaded = np.load(kept)
        clips = [loaded[name] for name in loaded.files]
    else:
        clips = _recognise(prompts)
        if kept:
            np.savez(kept, **{f"{number:03d}": clip for number, clip in enumerate(clips)})
    record = {"frames": [], "counts": [], "places": [], "values": []}
    every = []
    for clip in clips:
        if not 12 <= len(clip) <= 400:
            continue
        keep = np.flatnonzero((clip >= LEAST) | (clip == clip.max(-1, keepdims=True)))
        values = np.round(clip.reshape(-1)[keep] / -STEP).astype("uint16")
        record["frames"].append(len(clip))
        record["counts"].append(len(keep))
        record["places"].append(np.diff(keep, prepend=0))
        record["values"].append(values)
        every.append(dense(len(clip), keep, values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lm.arpa"
        path.write_text(language_model(every))
        alphabet, model = Alphabet.build_alphabet(LETTERS), kenlm.Model(str(path))
        unigrams = load_unigram_set_from_arpa(str(path))
        ways = {"stock": (LanguageModel(model, unigrams), None), "model": (EmptyWordsAreFree(model, unigrams), None),
                "plain": (None, None), "hot": (None, hot_words(every))}
        for name, (scorer, hot) in ways.items():
            decoder = BeamSearchDecoderCTC(alphabet, scorer)
            beams = [decoder.decode_beams(clip.copy(), beam_width=100, hotwords=hot)[0] for clip in every]
            texts = ["".join(str(LETTERS.index(c)) + "," for c in beam[0]) for beam in beams]
            record[f"{name}_texts"], record[f"{name}_scores"] = [";".join(texts)], [beam[-1] for beam in beams]
    arrays = {name: np.concatenate(values) if name in ("places", "values") else np.array(values)
              for name, values in record.items()}
    for name in arrays:
        if name in ("frames", "counts", "places"):
            arrays[name] = arrays[name].astype("uint16")
        elif name.endswith("_scores"):
            arrays[name] = arrays[name].astype("float32")
        elif name.endswith("_texts"):
            arrays[name] = np.frombuffer(arrays[name][0].encode(), "uint8")
    target = Path(__file__).parent / "fixtures" / "beam_search.npz"
    np.savez_compressed(target, **arrays)
    print(f"{target}: {len(every)} clips, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
