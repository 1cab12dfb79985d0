"""Whisper's languages, and the many ways in which people and data sets name them."""

import difflib
import re

# OpenAI's order; large-v3 added yue at the end. Index = offset from the first language token.
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue").split()
# English names in the order of LANGUAGES; other names that people use stand in _ALIASES.
LANGUAGE_NAMES = (
    "english chinese german spanish russian korean french japanese portuguese turkish polish catalan dutch arabic "
    "swedish italian indonesian hindi finnish vietnamese hebrew ukrainian greek malay czech romanian danish hungarian "
    "tamil norwegian thai urdu croatian bulgarian lithuanian latin maori malayalam welsh slovak telugu persian latvian "
    "bengali serbian azerbaijani slovenian kannada estonian macedonian breton basque icelandic armenian nepali "
    "mongolian bosnian kazakh albanian swahili galician marathi punjabi sinhala khmer shona yoruba somali afrikaans "
    "occitan georgian belarusian tajik sindhi gujarati amharic yiddish lao uzbek faroese haitian_creole pashto turkmen "
    "nynorsk maltese sanskrit luxembourgish myanmar tibetan tagalog malagasy assamese tatar hawaiian lingala hausa "
    "bashkir javanese sundanese cantonese").split()
# ISO 639-3 in the order of LANGUAGES.
_ISO_639_3 = (
    "eng zho deu spa rus kor fra jpn por tur pol cat nld ara swe ita ind hin fin vie heb ukr ell msa ces ron dan hun "
    "tam nor tha urd hrv bul lit lat mri mal cym slk tel fas lav ben srp aze slv kan est mkd bre eus isl hye nep mon "
    "bos kaz sqi swa glg mar pan sin khm sna yor som afr oci kat bel tgk snd guj amh yid lao uzb fao hat pus tuk nno "
    "mlt san ltz mya bod tgl mlg asm tat haw lin hau bak jav sun yue").split()
# OpenAI's other names.
_ALIASES = {"burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb",
            "pushto": "ps", "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si",
            "castilian": "es", "mandarin": "zh"}
NAME_TO_CODE = {**{name.replace("_", " "): code for name, code in zip(LANGUAGE_NAMES, LANGUAGES)}, **_ALIASES}
_MORE_NAMES = {
    "mandarin chinese": "zh", "farsi": "fa", "filipino": "tl", "bokmal": "no", "bokmål": "no",
    "norwegian bokmal": "no", "norwegian bokmål": "no", "norwegian nynorsk": "nn", "brazilian portuguese": "pt",
}
_MORE_CODES = {
    # Codes of ISO 639-1 that Whisper writes in another way, or that were replaced.
    "nb": "no", "jv": "jw", "iw": "he", "in": "id", "ji": "yi", "mo": "ro",
    # ISO 639-2/B.
    "alb": "sq", "arm": "hy", "baq": "eu", "bur": "my", "chi": "zh", "cze": "cs", "dut": "nl", "fre": "fr",
    "geo": "ka", "ger": "de", "gre": "el", "ice": "is", "mac": "mk", "mao": "mi", "may": "ms", "per": "fa",
    "rum": "ro", "slo": "sk", "tib": "bo", "wel": "cy",
    # Single languages of a group for which Whisper has one token.
    "cmn": "zh", "nob": "no", "fil": "tl", "arb": "ar", "pes": "fa", "prs": "fa", "swh": "sw", "zsm": "ms",
    "lvs": "lv", "ekk": "et", "khk": "mn", "npi": "ne", "pbt": "ps", "uzn": "uz", "azj": "az", "plt": "mg",
    "ydd": "yi",
}
_NAMES = {**NAME_TO_CODE, **_MORE_NAMES}
_CODES = {**dict(zip(LANGUAGES, LANGUAGES)), **dict(zip(_ISO_639_3, LANGUAGES)), **_MORE_CODES}
# What may follow the language in a tag (BCP 47): script, region, variants. FLEURS and POSIX write _ for -.
_TAG = re.compile(r"([a-z]{2,3})(?:-([a-z]{3}))?(?:-[a-z]{4})?(?:-(?:[a-z]{2}|[0-9]{3}))?(?:-[a-z0-9]{5,8})*")


class LanguageError(ValueError):
    """A language that a vocabulary lacks, or that a record does not say."""


def language_code(language, known=LANGUAGES):
    """Whisper's code of a language.

    Args:
        language: a code ("pt", "por"), an English name ("Portuguese"), or a tag with script or region ("pt-BR",
            "zh_Hans_CN"), in any case. The region does not count: Whisper has one token for a language.
        known: the codes that the vocabulary at hand has.

    Raises:
        LanguageError: the vocabulary has no such language; the message names the nearest and all that there are.
    """
    found = _found(str(language))
    if found in known:
        return found
    names = sorted(name for name, code in NAME_TO_CODE.items() if code in known)
    near = difflib.get_close_matches(str(language).strip().lower(), [*names, *known], n=3)
    hint = f"did you mean {' or '.join(near)}? E" if near else "e"
    raise LanguageError(f"Unknown language {language!r} to this vocabulary; {hint}xpected a code or English name, one "
                        f"of: {', '.join(names)}.")


def _found(language):
    """The code of any language that some Whisper has, or None."""
    text = language.strip().lower().replace("_", "-")
    name = " ".join(text.replace("-", " ").split())
    if name in _NAMES:
        return _NAMES[name]
    tag = _TAG.fullmatch(re.split("[.@]", text)[0])   # POSIX writes the encoding behind: pt_BR.UTF-8
    if tag is None:
        return None
    # "zh-yue" and "zh-nan" name the language itself behind its group.
    return _CODES.get(tag[2] or tag[1])
