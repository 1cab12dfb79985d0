"""20,000 lines of mixed text, the same on every machine with the same Python: code, prose, many scripts, odd spaces."""

import inspect
import random
import sysconfig
from pathlib import Path

import numpy as np

FOUR_LANGUAGES = Path(__file__).parent.parent / "fixtures" / "four_languages.txt"
# Scripts with and without blanks, letters that are marks, digits of other scripts, emoji joined by U+200D.
RANGES = {
    "latin": (0xC0, 0x24F), "greek": (0x370, 0x3FF), "cyrillic": (0x400, 0x4FF), "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x620, 0x66F), "devanagari": (0x904, 0x97F), "thai": (0xE01, 0xE5B), "hangul": (0xAC00, 0xB000),
    "kana": (0x3041, 0x30FF), "chinese": (0x4E00, 0x6000), "emoji": (0x1F300, 0x1F64F), "music": (0x1D100, 0x1D1FF)}
BLANKS = [" ", "  ", "    ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u200b", "\u2028", " \t ", "\x0b",
          "\x85"]
PIECES = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "''", "'", "n't", "I'm", "'sup", "1", "23", "4.5", "½",
          "²", "!", "...", "—", "a", "Ab", "é", "e\u0301", "ß", "क", "ि", "का", "中", "문", "🙂", "👩\u200d👩\u200d👧",
          "\U000e0041", "\u0378", "<|endoftext|>", "<|", "|>", "<|endoftext", "_", "=" * 30, "x" * 40, "\x00", "\x1f",
          "\ufffd", "\ufeff"]
PROSE = ["Please hold while I try that extension.", "It was the best of times, it was the worst of times;",
         "She said: “I don't know — they're over there, aren't they?”", "Café naïve, œuvre, Straße, señor, Ångström.",
         "नमस्ते दुनिया, यह हिन्दी का एक वाक्य है।", "Привет, мир! Это обычное предложение.", "今日は良い天気ですね。", "",
         "안녕하세요 세계", "🙂👍🏽🏳️\u200d🌈 fun!", "   leading and   inner runs of spaces   ", "\t\ttabs\tand more\t"]


def mixed_lines(count=20_000, seed=0):
    """list of str: a third Python's own sources, a third random pieces, a third words of one script."""
    draw, lines = random.Random(seed), []
    folder = Path(sysconfig.get_paths()["stdlib"])
    for name in ("argparse.py", "typing.py", "inspect.py", "tarfile.py", "subprocess.py", "doctest.py", "pydoc.py"):
        lines += (folder / name).read_text("utf-8").split("\n")
    lines = lines[:count // 3] + inspect.getsource(np.linalg).split("\n") + PROSE * 20
    lines += FOUR_LANGUAGES.read_text("utf-8").split("\n")
    scripts = list(RANGES.values())
    while len(lines) < count:
        if draw.random() < 0.5:
            lines.append("".join(draw.choice(PIECES if draw.random() < 0.7 else BLANKS)
                                 for _ in range(draw.randrange(12))))
        else:
            low, high = draw.choice(scripts)
            words = ["".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 12)))
                     for _ in range(draw.randrange(10))]
            lines.append(draw.choice(BLANKS[:3]).join(words))
    draw.shuffle(lines)
    return lines[:count]


def all_characters():
    """list of str: every code point once, in lines of 64, but for the surrogates, which UTF-8 does not have."""
    return ["".join(map(chr, range(start, start + 64))) for start in range(0, 0x110000, 64)
            if not 0xD800 <= start < 0xE000]
