"""`answers`: what is shown of a model's answers, and what is said of an input that cannot be taken."""

import struct

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("grpc")

from tests.demo.stub import LABELS, STUBS, WORDS, StubClient, png, strings
from tfhf.client import wav_bytes
from tfhf.data.audio import AudioError
from tfhf.data.image import ImageError
from tfhf.demo.answers import MAX_PIXELS_ENLARGED, Answers, DemoError


@pytest.fixture
def wav(tmp_path):
    def write(seconds, name="clip.wav", rate=16_000):
        (tmp_path / name).write_bytes(wav_bytes(0.1 * np.sin(np.arange(round(seconds * rate)) / 9), rate))
        return str(tmp_path / name)

    return write


@pytest.fixture
def image(tmp_path):
    def write(data, name="photo.png"):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else png(data))
        return str(tmp_path / name)

    return write


def answers(kind, **options):
    client = STUBS[kind]()
    return Answers(client, "some", **options), client


@pytest.mark.parametrize("kind", sorted(STUBS))
def test_a_model_is_told_by_its_signature(kind):
    assert answers(kind)[0].kind == kind


def test_a_model_without_a_page_is_refused_with_what_it_has():
    with pytest.raises(DemoError, match=r"'some'.*takes \['x'\] and answers \['y'\].*wav -> text"):
        Answers(StubClient(["x"], {"y": 0}), "some")


def test_a_recording_is_joined_from_its_parts(wav):
    model, client = answers("transcript")
    text, segments, picture = model.transcript(wav(3.0, rate=8_000))
    assert text == "Hello, <b>world</b>" and len(segments) == 3 and picture.shape == (256, 960, 3)
    assert client.asked == [(48_000, 16_000)]   # at 16 kHz


def test_words_have_the_times_of_the_whole_recording(wav):
    client = StubClient(["wav"], WORDS, {"raw": {"inputs": {"input_values": {"shape": [-1, 32_000]}}}})
    text, words, _ = Answers(client, "some").transcript(wav(3.0))
    second = words[2].start_s - words[0].start_s   # where the second part begins: in the last second of the first
    assert text == "hi all hi all" and len(client.asked) == 2 and 1.0 <= second <= 2.0
    assert words[1].end_s == pytest.approx(0.9) and words[3].end_s == pytest.approx(0.9 + second)


def test_labels_by_the_names_of_the_classes(wav):
    model, _ = answers("sound_labels", names=("bad", "good", "odd"))
    labels, picture = model.sound_labels(wav(1.0))
    assert labels == pytest.approx({"bad": 0.2, "good": 0.5, "odd": 0.3}) and picture.dtype == np.uint8
    other, _ = answers("text_labels", names=("yes", "no"))   # of another model
    assert set(other.text_labels("well")) == {"class 0", "good", "class 2"}


def test_two_classes_of_one_name_share_a_bar():
    model, _ = answers("text_labels", names=("crane", "good", "crane"))
    assert model.text_labels("a bird") == pytest.approx({"crane": 0.5, "good": 0.5})


def test_a_prompt_goes_on_greedily_or_drawn():
    model, client = answers("continuation")
    assert model.continuation(" Once ") == " and <then>" and client.asked[0] == ({"prompt": ["Once"]}, "")
    model.continuation("Once", 0.7, 3)
    given, signature = client.asked[1]
    assert signature == "sample" and given["temperature"].dtype == np.float32 and given["seed"].dtype == np.int32


def test_near_is_yellow_far_is_blue(image):
    path = image(np.zeros((20, 20, 3), np.uint8))
    for kind in ("depth", "disparity"):
        (before, after), line = answers(kind)[0].depth(path)
        assert before.shape == (20, 20, 3) and after[0, 0].tolist() == [240, 249, 33]
        assert after[1, 1].tolist() == [13, 8, 135] and ("1.1 m to 7.4 m" in line) == (kind == "depth")


def test_enlarged_beside_bicubic(image):
    path = image(np.full((20, 30, 3), 90, np.uint8))
    model, client = answers("enlarged")
    (plain, after), line = model.enlarged(path)
    assert plain.shape == after.shape == (40, 60, 3) and np.all(plain == 90) and np.all(after == 200)
    assert line.startswith("30 × 20 pixels become 60 × 40")
    client.answer = {"outputs": client.answer["image"]}   # as TF Serving over REST
    assert model.enlarged(path)[0][1].shape == (40, 60, 3)


def test_labels_of_an_image_get_its_bytes(image):
    path = image(np.zeros((20, 20, 3), np.uint8))
    model, client = answers("image_labels")
    assert max(model.image_labels(path).values()) == pytest.approx(0.5)
    with open(path, "rb") as file:
        assert client.asked == [({"image": [file.read()]}, "")]


def test_sounds_that_cannot_be_taken(wav, tmp_path):
    model, client = answers("sound_labels")
    with pytest.raises(DemoError, match="No recording yet"):
        model.sound_labels(None)
    with pytest.raises(DemoError, match="long.wav: 2.5 seconds of sound, expected at most 2"):
        model.sound_labels(wav(2.5, "long.wav"))
    whole = open(wav(1.0), "rb").read()
    for name, data, told in (("cut.wav", whole[:5000], "truncated"), ("text.wav", b"hello", "cannot be decoded"),
                             ("none.wav", b"", "empty")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AudioError, match=f"^{name}: .*{told}"):   # its name, and not where it lies
            model.sound_labels(str(tmp_path / name))
    assert not client.asked


def test_texts_that_cannot_be_taken():
    model, client = answers("text_labels")
    for text in (None, "", " \n"):
        with pytest.raises(DemoError, match="No text yet"):
            model.text_labels(text)
    with pytest.raises(DemoError, match="5000 letters, this page takes at most 4000"):
        model.text_labels("x" * 5000)
    assert not client.asked


def test_images_that_cannot_be_taken(image):
    model, client = answers("enlarged")
    huge = png(np.zeros((16, 16, 3), np.uint8))
    huge = huge[:16] + struct.pack(">II", 60_000, 60_000) + huge[24:]   # a header that says so; 100 bytes in all
    large = np.zeros((1, MAX_PIXELS_ENLARGED // 16 + 1, 3), np.uint8).repeat(16, axis=0)
    for data, told in ((np.zeros((1, 1, 3), np.uint8), "1 × 1 pixels; expected at least 16 × 16"),
                       (large, f"at most {MAX_PIXELS_ENLARGED}"), (huge, "photo.png: "), (b"<svg/>", "cannot be read"),
                       (b"", "cannot be read")):
        with pytest.raises(DemoError, match=told):
            model.enlarged(image(data))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with pytest.raises(ImageError, match="^photo.png: .*cannot be decoded"):
        model.enlarged(image(png(noise)[:1000]))
    with pytest.raises(DemoError, match="No image yet"):
        model.enlarged(None)
    assert not client.asked


def test_an_answer_of_strings_that_came_as_text():
    client = StubClient(["text"], {**LABELS, "label": strings("schön")})
    assert "schön" in Answers(client, "some").text_labels("x")
