"""Speech synthesised by eSpeak NG: any number of clips, transcripts known by construction, no recordings needed.

Licence: the library is GPL-3.0; the sound is the output of a program. Origin: the library and its voices inside the
package espeakng-loader 0.2.4, called through its C interface; none of the package's own code runs.

It stands in where the Asterisk prompts cannot be had, so its sentences are of the same kind: short announcements of a
telephone system. With --texts they are the lines of a file. The last 50 sentences are test, the 50 before them
validation (a tenth each, where there are fewer than 500). The library's own clock varies: the same sentence read again
differs by some milliseconds, its transcript never.
"""

import ctypes
import functools
import hashlib
import io
import random
import threading
import wave
from pathlib import Path

from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, listing_sha256

CLIPS = 568
_OPENINGS = ("Please", "To continue, please", "If you are ready, please", "When you hear the tone,", "At any time,",
             "In order to finish,")
_ACTIONS = ("enter", "press", "repeat", "say", "record", "confirm", "check", "dial")
_OBJECTS = ("your account number", "the extension", "your name", "the pound key", "a new password", "the room number",
            "your zip code", "the four digit code", "the number of the agent", "today's date")
_ENDINGS = ("", "now", "again", "after the beep", "followed by the star key", "and hang up", "to leave a message",
            "before the time is over", "or wait for the operator")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")


def add_arguments(parser):
    """Adds the writer's options to the command."""
    parser.add_argument("--texts", help="a UTF-8 file with one sentence a line (made up when not given)")
    parser.add_argument("--clips", type=int, default=CLIPS, help="how many to make up (%(default)s)")
    parser.add_argument("--voice", default="en-us", help="a voice of eSpeak NG (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up sentences (%(default)s)")


def open_dataset(arguments):
    """The dataset that the command's options describe."""
    from tfhf.assets import AssetUnavailable, fetch

    texts = None
    if arguments.texts:
        texts = [line.strip() for line in Path(arguments.texts).read_text("utf-8").splitlines() if line.strip()]
    try:
        return Espeak(fetch("espeak-ng"), texts, arguments.clips, arguments.voice, arguments.seed)
    except AssetUnavailable as error:
        raise RecordError(f"eSpeak NG cannot be had: {error}") from error


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
    """Sentences read by one voice of the library in `folder` (the asset "espeak-ng")."""

    name = "espeak"
    licence = "output of eSpeak NG (GPL-3.0)"
    origin = "espeakng-loader 0.2.4"

    def __init__(self, folder, texts=None, clips=CLIPS, voice="en-us", seed=0):
        texts = sentences(clips, seed) if texts is None else texts
        if len(texts) < 3:
            raise RecordError(f"espeak: {len(texts)} sentences, expected 3 or more, one for each split")
        self._folder, self._voice = str(folder), voice
        held_out = min(50, max(1, len(texts) // 10))
        items = [{"id": f"{number:06d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", "text": text,
                  "language": voice.split("-")[0]} for number, text in enumerate(texts)]
        self._items = {"train": items[:-2 * held_out], "validation": items[-2 * held_out:-held_out],
                       "test": items[-held_out:]}

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        rows = ((item["id"], item["text"]) for item in self._items[split])
        return {"voice": self._voice, "listing_sha256": listing_sha256(rows)}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        return super().load({**item, "audio": _library(self._folder).speak(item["text"], self._voice)})


@functools.lru_cache(maxsize=None)
def _library(folder):
    return _Library(folder)


class _Library:
    """libespeak-ng through ctypes. It has one global state, so one clip is made at a time."""

    def __init__(self, folder):
        names = sorted(path.name for path in Path(folder).glob("libespeak-ng.*"))
        if not names:
            raise RecordError(f"{folder}: no libespeak-ng.* in it, expected the asset espeak-ng")
        self._lock, self._samples = threading.Lock(), []
        self._speak = ctypes.CDLL(str(Path(folder) / names[0]))
        retrieval = 1  # give the samples to the callback, do not play them
        self._rate = self._speak.espeak_Initialize(retrieval, 0, str(folder).encode(), 0)
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

    def speak(self, text, voice):
        """-> the content of a mono 16-bit WAV file."""
        utf8, by_character = 1, 1
        data = text.encode("utf-8")
        size = ctypes.c_size_t(len(data) + 1)
        with self._lock:
            self._samples.clear()
            if self._speak.espeak_SetVoiceByName(voice.encode()):
                raise RecordError(f"eSpeak NG has no voice {voice!r}, expected one like en-us, de or hi")
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
