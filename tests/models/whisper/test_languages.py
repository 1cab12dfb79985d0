"""Languages as data sets and people write them."""

import pytest

from tfhf.models.whisper.languages import LANGUAGES, LanguageError, language_code

V2 = LANGUAGES[:99]


@pytest.mark.parametrize("written, code", [
    ("pt-BR", "pt"), ("pt_br", "pt"), ("zh-CN", "zh"), ("zh_TW", "zh"), ("zh-Hans-CN", "zh"), ("cmn_hans_cn", "zh"),
    ("nb", "no"), ("nb_NO", "no"), ("no-NO", "no"), ("nn-NO", "nn"), ("sv-SE", "sv"), ("hy-AM", "hy"), ("es-419", "es"),
    ("eng", "en"), ("ger", "de"), ("deu_Latn", "de"), ("HIN", "hi"), ("de_DE.UTF-8", "de"), (" En-us ", "en"),
    ("jv", "jw"), ("jw", "jw"), ("iw", "he"), ("fil", "tl"), ("fil_ph", "tl"), ("Filipino", "tl"), ("in", "id"),
    ("Haitian_Creole", "ht"), ("haitian-creole", "ht"), ("Norwegian Bokmål", "no"), ("farsi", "fa"), ("prs", "fa"),
    ("lao", "lo"), ("haw-US", "haw"), ("ca-valencia", "ca"), ("zh-cmn", "zh")])
def test_known_ones(written, code):
    assert language_code(written, V2) == code


@pytest.mark.parametrize("written", ["yue", "Cantonese", "zh-yue", "yue-HK", "yue_hant_hk"])
def test_cantonese_came_with_large_v3(written):
    assert language_code(written) == "yue"
    with pytest.raises(LanguageError, match="Unknown language"):
        language_code(written, V2)


@pytest.mark.parametrize("written", ["", "und", "xx", "ga-IE", "nan-tw", "zh-nan", "rm-sursilv", "ckb", "pt-", "p t",
                                     "en-US-", "klingon", "pt--br", "x-en", "<|en|>"])
def test_unknown_ones(written):
    with pytest.raises(LanguageError, match="Unknown language .* to this vocabulary"):
        language_code(written)


def test_the_nearest_are_named():
    with pytest.raises(LanguageError, match="'portugese' to this vocabulary; did you mean portuguese.*hindi"):
        language_code("portugese")


def test_codes_stand_for_themselves():
    assert [language_code(code) for code in LANGUAGES] == list(LANGUAGES)
