"""Speech synthesised by eSpeak NG: any number of clips, transcripts known by construction, no recordings needed.

Licence: the library is GPL-3.0; the sound is the output of a program. Origin: the library and its voices inside the
package espeakng-loader 0.2.4, called through its C interface; none of the package's own code runs.

It stands in where the Asterisk prompts cannot be had, so its sentences are of the same kind: short announcements of a
telephone system. With --texts they are the lines of a file; a line may begin with a voice of its own and a tab
("de<TAB>Guten Morgen."), so that one file can hold several languages. With --variants each sentence is read in several
timbres, speeds and pitches, those of validation and test heard nowhere else. The last 50 sentences of each voice are
test, the 50 before them validation (a tenth each, where there are fewer than 500). The library's own clock varies: the
same sentence read again differs by some milliseconds, its transcript never.
"""

import ctypes
import dataclasses
import functools
import hashlib
import io
import random
import threading
import wave
from pathlib import Path

from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, listing_sha256
from tfrecords.tables import read_lines

CLIPS = 568
_OPENINGS = ("Please", "To continue, please", "If you are ready, please", "When you hear the tone,", "At any time,",
             "In order to finish,")
_ACTIONS = ("enter", "press", "repeat", "say", "record", "confirm", "check", "dial")
_OBJECTS = ("your account number", "the extension", "your name", "the pound key", "a new password", "the room number",
            "your zip code", "the four digit code", "the number of the agent", "today's date")
_ENDINGS = ("", "now", "again", "after the beep", "followed by the star key", "and hang up", "to leave a message",
            "before the time is over", "or wait for the operator")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")
_ISO_639_1 = {"cmn": "zh"}   # the library names Mandarin by its three letters


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a voice is changed. timbre: a name in the library's voices/!v, such as m3 or f2, or nothing."""

    timbre: str = ""
    words_per_minute: int = 175
    pitch: int = 50   # 0 to 99

    def __str__(self):
        return f"{self.timbre or 'plain'}-{self.words_per_minute}-{self.pitch}"


PLAIN = {"train": (Variant(),), "validation": (Variant(),), "test": (Variant(),)}
# Timbres are the library's own; speed and pitch go through their ranges beside them.
_TIMBRES = ("", "m1", "f1", "m4", "f4", "m7", "Andy", "Annie", "Alex", "linda", "Gene", "steph", "Lee", "belinda",
            "adam", "Alicia", "Michael", "Andrea", "robert", "anika")
VARIANTS = {
    "train": tuple(Variant(timbre, 140 + 29 * i % 75, 25 + 17 * i % 50) for i, timbre in enumerate(_TIMBRES)),
    "validation": (Variant("m5", 180, 45), Variant("f3", 160, 60)),
    "test": (Variant("m3", 150, 55), Variant("f2", 200, 40), Variant("m2", 170, 65), Variant("m6", 190, 50),
             Variant("f5", 160, 35)),
}


def add_arguments(parser):
    """Adds the writer's options to the command."""
    parser.add_argument("--texts", help="a UTF-8 file with one sentence a line, or a voice, a tab and a sentence "
                        "(made up when not given)")
    parser.add_argument("--clips", type=int, default=CLIPS, help="how many to make up (%(default)s)")
    parser.add_argument("--voice", default="en-us", help="a voice of eSpeak NG, of lines without one (%(default)s)")
    parser.add_argument("--variants", action="store_true", help="read the sentences in several timbres")
    parser.add_argument("--readings", type=int, help="of a sentence of the training, by that many variants (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up sentences (%(default)s)")


def open_dataset(arguments):
    """The dataset that the command's options describe."""
    from tfhf.assets import AssetUnavailable, fetch

    texts = None
    if arguments.texts:
        texts = read_texts(arguments.texts, arguments.voice)
    try:
        return Espeak(fetch("espeak-ng"), texts, arguments.clips, arguments.voice, arguments.seed,
                      VARIANTS if arguments.variants else PLAIN, arguments.readings)
    except AssetUnavailable as error:
        raise RecordError(f"eSpeak NG cannot be had: {error}") from error


def read_texts(path, voice):
    """{voice: sentences} of a UTF-8 file, one sentence a line; a line may begin with its voice and a tab, and
    `voice` is that of lines without one."""
    texts = {}
    for found in read_lines(path):
        if found.problem:
            raise RecordError(f"{path}, line {found.number}: {found.problem}")
        line = found.text.rstrip("\r\n")
        before, tab, after = line.partition("\t")
        own, text = (before.strip() or voice, after) if tab else (voice, before)
        if text.strip():
            texts.setdefault(own, []).append(text.strip())
    return texts


def sentences(count, seed=0):
    """`count` different announcements, the same ones for the same seed."""
    draw, made = random.Random(seed), {}
    while len(made) < count:
        opening, action, thing, ending = (draw.choice(words) for words in (_OPENINGS, _ACTIONS, _OBJECTS, _ENDINGS))
        digits = " ".join(draw.choice(_NUMBERS) for _ in range(draw.randint(1, 4)))
        form = draw.choice((f"{opening} {action} {thing} {ending}", f"{opening} {action} {digits} {ending}",
                            f"You have {draw.choice(_NUMBERS)} new messages, the last one from extension {digits}"))
        made[" ".join(form.split()) + "."] = None
    return list(made)


class Espeak(Dataset):
    """Sentences read by the library in `folder` (the asset "espeak-ng").

    Args:
        texts: sentences for `voice`, or {voice: sentences}; None: `clips` made-up ones.
        variants: {split: the variants that read its sentences}.
        readings: how many of the variants read a sentence of the training, in turn from one to the next; None: all.
    """

    name = "espeak"
    licence = "output of eSpeak NG (GPL-3.0)"
    origin = "espeakng-loader 0.2.4"

    def __init__(self, folder, texts=None, clips=CLIPS, voice="en-us", seed=0, variants=PLAIN, readings=None):
        texts = sentences(clips, seed) if texts is None else texts
        texts = texts if isinstance(texts, dict) else {voice: texts}
        if readings is not None and not 1 <= readings <= len(variants["train"]):
            raise RecordError(f"espeak: {readings} readings, expected 1 to {len(variants['train'])}, the variants")
        self._folder, self._variants = str(folder), variants
        self._items = {"train": [], "validation": [], "test": []}
        for voice, lines in texts.items():
            if len(lines) < 3:
                raise RecordError(f"espeak: {len(lines)} sentences for voice {voice}, expected 3 or more, one for each "
                                  "split")
            language = voice.split("-")[0]
            items = [{"id": f"{number:06d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", "text": text,
                      "language": _ISO_639_1.get(language, language), "voice": voice}
                     for number, text in enumerate(lines)]
            held_out = min(50, max(1, len(items) // 10))
            parts = {"train": items[:-2 * held_out], "validation": items[-2 * held_out:-held_out],
                     "test": items[-held_out:]}
            for split, part in parts.items():
                several = len(texts) > 1 or len(variants[split]) > 1   # then the id says which voice it is
                count = len(variants[split]) if readings is None or split != "train" else readings
                self._items[split] += [
                    {**item, "id": f"{voice}-{variant}-{item['id']}" if several else item["id"], "variant": variant}
                    for number, item in enumerate(part)
                    for variant in (variants[split] * 2)[number * count % len(variants[split]):][:count]]

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        rows = ((item["id"], item["text"]) for item in self._items[split])
        return {"voices": sorted({item["voice"] for item in self._items[split]}),
                "variants": [str(variant) for variant in self._variants[split]], "listing_sha256": listing_sha256(rows)}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        sound = _library(self._folder).speak(item["text"], item["voice"], item["variant"])
        return super().load({"id": item["id"], "audio": sound, "text": item["text"], "language": item["language"]})


_STARTING = threading.Lock()   # a cache alone would let two threads start the library at once, which ends the process


def _library(folder):
    with _STARTING:
        return _start(folder)


@functools.lru_cache(maxsize=None)
def _start(folder):
    return _Library(folder)


class _Library:
    """libespeak-ng through ctypes. It has one global state, so one clip is made at a time."""

    def __init__(self, folder):
        names = sorted(path.name for path in Path(folder).glob("libespeak-ng.*"))
        if not names:
            raise RecordError(f"{folder}: no libespeak-ng.* in it, expected the asset espeak-ng")
        self._lock, self._samples, self._data = threading.Lock(), [], Path(folder) / "espeak-ng-data"
        self._speak = ctypes.CDLL(str(Path(folder) / names[0]))
        synchronous = 2  # the samples go to the callback while espeak_Synth runs: no waiting for a thread of its own
        self._rate = self._speak.espeak_Initialize(synchronous, 0, str(folder).encode(), 0)
        if self._rate <= 0:
            raise RecordError(f"{folder}: eSpeak NG does not start (code {self._rate}), expected espeak-ng-data in it")
        # int callback(short *wav, int numsamples, espeak_EVENT *events); 0: go on. Kept, or it would be collected.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)
        self._speak.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count, events):
        if samples and count > 0:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, text, voice, variant=Variant()):
        """-> the content of a mono 16-bit WAV file."""
        utf8, by_character, rate, pitch = 1, 1, 1, 3   # of the library's enums
        data, name = text.encode("utf-8"), f"{voice}+{variant.timbre}" if variant.timbre else voice
        size = ctypes.c_size_t(len(data) + 1)
        with self._lock:
            self._samples.clear()
            # The library reads an unknown timbre as none.
            if variant.timbre and not (self._data / "voices" / "!v" / variant.timbre).is_file():
                raise RecordError(f"eSpeak NG has no timbre {variant.timbre!r}, expected one like m3 or f2")
            if self._speak.espeak_SetVoiceByName(name.encode()):
                raise RecordError(f"eSpeak NG has no voice {voice!r}, expected one like en-us, de or hi")
            self._speak.espeak_SetParameter(rate, variant.words_per_minute, 0)
            self._speak.espeak_SetParameter(pitch, variant.pitch, 0)
            status = self._speak.espeak_Synth(data, size, 0, by_character, 0, utf8, None, None)
            self._speak.espeak_Synchronize()
            sound = b"".join(self._samples)
        if status or not sound:
            raise RecordError(f"eSpeak NG made {len(sound)} bytes of sound (code {status}) of {text!r}")
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self._rate)
            file.writeframes(sound)
        return out.getvalue()
