"""`page`: each kind of model has its page; errors are told in words, and what people wrote is not taken for HTML."""

import asyncio

import numpy as np
import pytest

gr = pytest.importorskip("gradio")
pytest.importorskip("grpc")

from tests.demo.stub import STUBS, png
from tfhf.client import ClientError, wav_bytes
from tfhf.demo.answers import Answers
from tfhf.demo.page import CSS, THEME, make_page
from tfhf.demo.uploads import Uploads


def made(kind, **options):
    """-> (the page, what its button calls, the client)"""
    client = STUBS[kind]()
    page = make_page(Answers(client, "some<model>"), Uploads("uploads"), **options)
    function, = [each.fn for each in page.fns.values() if each.fn.__name__ == "run"]
    return page, function, client


@pytest.fixture
def given(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(np.full(16_000, 0.1), 16_000))
    (tmp_path / "a.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    return {"transcript": str(tmp_path / "a.wav"), "sound_labels": str(tmp_path / "a.wav"),
            "continuation": "<i>Once", "text_labels": "good"}, str(tmp_path / "a.png")


@pytest.mark.parametrize("kind", sorted(STUBS))
def test_each_kind_has_a_page_that_answers(kind, given):
    page, run, _ = made(kind)
    values = run(given[0].get(kind, given[1]))
    parts = page.get_config_file()
    event, = [each for each in parts["dependencies"] if len(each["outputs"]) == len(values)]
    assert event["api_visibility"] == "private" and values[-1].endswith("s")   # its last is the line with the time
    titles = [each["props"].get("value") for each in parts["components"] if each["type"] == "html"]
    assert "some&lt;model&gt;" in titles[0] and "<model>" not in titles[0]


def test_text_from_outside_is_escaped(given):
    text, times, _, line = made("transcript")[1](given[0]["transcript"])
    assert text == "Hello, <b>world</b>"   # a text box shows it as it is
    assert "&lt;b&gt;world" in times and "<b>" not in times and "0:02.0–0:03.0" in times
    assert line.startswith("3.0 s of speech in ")
    story, _ = made("continuation")[1](given[0]["continuation"])
    assert "&lt;i&gt;Once" in story and "&lt;then&gt;" in story and "<i>" not in story


def test_errors_are_told_in_words():
    _, run, client = made("text_labels")
    with pytest.raises(gr.Error) as told:
        run("")
    assert told.value.message.startswith("No text yet") and not told.value.print_exception

    def refuse(*_):
        raise ClientError("RESOURCE_EXHAUSTED", "<64> examples wait already")

    client.predict = refuse
    with pytest.raises(gr.Error) as told:
        run("good")
    assert told.value.message == "&lt;64&gt; examples wait already"


def test_what_is_no_image_reaches_the_one_who_says_so(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    page = make_page(Answers(STUBS["depth"](), "some"), Uploads(str(tmp_path)))
    function, = [each for each in page.fns.values() if each.fn.__name__ == "run"]
    for payload, expected in ((None, None), ({"path": str(tmp_path / "broken.png")}, str(tmp_path / "broken.png"))):
        assert asyncio.run(page.preprocess_data(function, [payload], None)) == [expected]
    with pytest.raises(gr.Error, match="reads only what was uploaded"):
        asyncio.run(page.preprocess_data(function, [{"path": "/etc/passwd"}], None))


def test_examples_are_the_files_given(given):
    offered = [each for each in made("depth", examples=[given[1]])[0].blocks.values() if isinstance(each, gr.Dataset)]
    assert len(offered) == 1 and len(offered[0].samples) == 1
    assert not [each for each in made("transcript")[0].blocks.values() if isinstance(each, gr.Dataset)]


def test_nothing_is_fetched_for_the_looks():
    assert all(isinstance(font, str) for font in THEME._font + THEME._font_mono)   # names; others would be loaded
    assert "url(" not in CSS and "@import" not in CSS
