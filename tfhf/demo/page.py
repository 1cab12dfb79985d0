"""The page, by Gradio: one for each kind of model. It loads nothing from other hosts, and tells them nothing."""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Callable

import gradio as gr
from starlette.middleware import Middleware

from tfhf.client import ClientError
from tfhf.data.audio import AudioError
from tfhf.data.image import ImageError
from tfhf.demo.answers import Answers, DemoError
from tfhf.demo.uploads import MAX_FILE_MB, BoundedRequests, Uploads

MAX_FILE_SIZE = f"{MAX_FILE_MB}mb"
WAITING = 16          # people who wait for an answer; more are told to try later
KEEP_S = 3600         # uploads are deleted after an hour at the latest
THEME = gr.themes.Soft(
    primary_hue="indigo", neutral_hue="slate", radius_size="lg",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"])
# Soft's subdued text is too pale to read on white.
CSS = """
.gradio-container { --body-text-color-subdued: var(--neutral-600); }
.dark .gradio-container, .gradio-container.dark { --body-text-color-subdued: var(--neutral-400); }
.gradio-container { width: 100% !important; max-width: 1080px !important; margin: 0 auto !important; }
.gradio-container .app { padding: 16px clamp(10px, 3vw, 32px) !important; }
.html-container:has(.about) { padding: 0 !important; }
footer .divider { display: none !important; }
.about { padding: 20px 24px; border-radius: 16px; color: white;
         background: linear-gradient(120deg, #312e81, #6d28d9 60%, #c026d3); }
.about h1 { margin: 0 0 6px; font-size: 1.7rem; line-height: 1.2; color: white; }
.about p { margin: 0; opacity: .92; color: white; } .about small { opacity: .75; color: white; }
#told { min-height: 1.2em; color: var(--body-text-color-subdued); font-size: .9rem; }
.heading { margin: 0 0 8px; font-size: .9rem; font-weight: 600; color: var(--body-text-color-subdued); }
.times { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 6px; max-height: 320px;
         overflow-y: auto; }
.times li { margin: 0; padding: 4px 10px; border-radius: 8px; background: var(--background-fill-secondary);
            border: 1px solid var(--border-color-primary); overflow-wrap: anywhere; }
.times time { display: block; font: .72rem var(--font-mono); color: var(--body-text-color-subdued); }
.story { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; font-size: 1.05rem; }
.story span { color: var(--body-text-color-subdued); }
.story mark { background: color-mix(in srgb, var(--primary-500) 22%, transparent); color: inherit; border-radius: 4px; }
.picture img { width: 100%; object-fit: fill; padding-top: 36px; box-sizing: border-box; }
"""
TEXTS = ("The food was delicious, and the staff could not have been kinder.",
         "It stopped working after two days. I want my money back!")
_TIMES = "<h2 class='heading'>Times</h2><ol class='times'>{}</ol>"
_STORY = "<h2 class='heading'>Continuation</h2><p class='story'><span>{}</span><mark>{}</mark></p>"
PROMPTS = ("In the beginning", "Once upon a time, in a village by the sea,")


@dataclasses.dataclass(frozen=True)
class _About:
    title: str
    text: str
    button: str
    given: Callable     # Answers -> the input component
    shown: Callable     # () -> the components of the answer
    answer: Callable    # (Answers, values of the inputs) -> the values of those components
    examples: tuple = ()


def make_page(answers: Answers, uploads: Uploads, examples=(), where="") -> gr.Blocks:
    """The page of a model.

    Args:
        uploads: the only files that it reads.
        examples: paths of files to offer, of recordings or images.
        where: what the page says of where its answers come from.
    """
    about = _ABOUT[answers.kind]
    with gr.Blocks(title=f"{about.title}: {answers.model}", analytics_enabled=False,
                   delete_cache=(KEEP_S // 6, KEEP_S)) as page:
        gr.HTML(f"<div class='about'><h1>{about.title}</h1><p>{about.text}</p>"
                f"<small>{html.escape(' · '.join(filter(None, (answers.model, where))))}</small></div>", padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                given = [about.given(answers)]
                offered = list(examples) or list(about.examples)
                if answers.kind == "continuation" and answers.samples:
                    with gr.Accordion("Sampling", open=False):
                        given += [gr.Slider(0, 2, 0, step=0.1, label="Temperature",
                                            info="0: the likeliest words; more: bolder ones"),
                                  gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1,
                                            info="the same number draws the same words")]
                button = gr.Button(about.button, variant="primary", size="lg", elem_id="run")
                if offered:
                    gr.Examples(offered, given[0], label="Examples")
            with gr.Column(min_width=300):
                shown = about.shown()
                told = gr.HTML(elem_id="told", padding=False)

        def run(*values):
            begin = time.perf_counter()
            uploads.has_room()   # the pictures of the answers lie there as well
            try:
                results, line = about.answer(answers, *values)
            except (DemoError, AudioError, ImageError, ClientError) as error:
                message = error.message if isinstance(error, ClientError) else str(error)
                raise gr.Error(html.escape(message), print_exception=False) from error   # Gradio takes it for HTML
            return *results, html.escape(" ".join(filter(None, (line, _took(time.perf_counter() - begin)))))

        events = [button.click] + ([given[0].submit] if isinstance(given[0], gr.Textbox) else [])
        gr.on(events, run, given, [*shown, told], show_progress_on=shown[:1], api_visibility="private")
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    _read_only(page, uploads)
    return page


def _read_only(page, uploads):
    """A page whose components of files give the paths of `uploads`, and no other.

    Of its own accord Gradio checks a path only if the visitor marks it as one, fetches what is an address, and opens
    images, to answer a broken one with "Error". A component is no place for this: once a visitor has clicked an example
    the session has a new one.
    """
    prepare = page.preprocess_data

    async def checked(block_fn, inputs, *rest, **more):
        files = {place: _checked(uploads, value) for place, (block, value) in enumerate(zip(block_fn.inputs, inputs))
                 if isinstance(block, (gr.Image, gr.Audio))}
        values = [None if place in files else value for place, value in enumerate(inputs)]
        prepared = await prepare(block_fn, values, *rest, **more)
        return [files.get(place, value) for place, value in enumerate(prepared)]

    page.preprocess_data = checked


def _checked(uploads, payload):
    """The path that a visitor gives, a FileData as JSON; None if there is none."""
    if not payload:
        return None
    try:
        return uploads.checked(payload.get("path") if isinstance(payload, dict) else None)
    except DemoError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error


def launch(page: gr.Blocks, uploads: Uploads, host: str, port: int, share: bool) -> tuple[str, str | None]:
    """Serves the page in threads until `page.close()`; -> (its address here, its public address if `share`).

    Raises:
        DemoError: the port is taken; the page does not answer.
    """
    try:
        _, here, public = page.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, show_error=False,
            inbrowser=False, max_file_size=MAX_FILE_SIZE, footer_links=["settings"], run_history=False,
            enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=THEME, css=CSS,
            app_kwargs={"middleware": [Middleware(BoundedRequests, uploads=uploads)]})
    except OSError as error:
        raise DemoError(f"{host}:{port}: {error}; expected a free port (--port, 0: any)") from error
    except ValueError as error:   # Gradio's own visit to the page, which waits for three seconds
        raise DemoError(f"{host}:{port}: the page does not answer this machine in time; is a proxy in between "
                        "(no_proxy=localhost,127.0.0.1), or the machine too busy?") from error
    return here, public


def _took(seconds):
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _sound(answers):
    most = answers.max_seconds
    label = f"Speech, up to {f'{most // 60:g} minutes' if most >= 120 else f'{most:g} seconds'}"
    return gr.Audio(sources=["upload", "microphone"], type="filepath", label=label, buttons=[],
                    elem_id="given")


def _image(_):
    return gr.Image(sources=["upload", "webcam", "clipboard"], type="filepath", image_mode=None, label="Image",
                    height=320, buttons=[], elem_id="given")


def _prompt(label, placeholder):
    return lambda _: gr.Textbox(label=label, placeholder=placeholder, lines=4, max_lines=12, elem_id="given")


def _spectrogram():
    return gr.Image(label="Spectrogram: pitch over time", interactive=False, elem_classes="picture", height=200,
                    format="png", buttons=["fullscreen"])


def _slider():
    return gr.ImageSlider(label="Before and after", interactive=False, format="png", max_height=520,
                          buttons=["download", "fullscreen"])


def _labels():
    return gr.Label(label="Answer", num_top_classes=5)


def _transcript(answers, path):
    text, segments, picture = answers.transcript(path)
    times = "".join(f"<li><time>{_clock(part.start_s)}–{_clock(part.end_s)}</time>{html.escape(part.text)}</li>"
                    for part in segments)
    seconds = max((part.end_s for part in segments), default=0.0)
    return (text, _TIMES.format(times), picture), f"{seconds:.1f} s of speech in" if seconds else ""


def _clock(seconds):
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def _continuation(answers, prompt, temperature=0.0, seed=0):
    more = answers.continuation(prompt, temperature, seed or 0)
    return (_STORY.format(html.escape(prompt.strip()), html.escape(more)),), ""


def _of_image(answers, path):
    pair, line = getattr(answers, answers.kind)(path)
    return (pair,), line


_ABOUT = {
    "transcript": _About(
        "Speech to text", "Record yourself, or upload a recording: what was said, and when.", "Write it down", _sound,
        lambda: [gr.Textbox(label="Text", lines=3, buttons=["copy"], interactive=False, elem_id="text"),
                 gr.HTML(_TIMES.format("<li>when each part was said</li>"), container=True, padding=True),
                 _spectrogram()], _transcript),
    "sound_labels": _About(
        "What is spoken here?", "Record yourself, or upload a recording: the model says what it takes it for.",
        "Listen", _sound, lambda: [_labels(), _spectrogram()],
        lambda answers, path: (answers.sound_labels(path), "")),
    "continuation": _About(
        "And then?", "Write a beginning: the model goes on.", "Go on", _prompt("Beginning", "Once upon a time"),
        lambda: [gr.HTML(_STORY.format("how the model goes on", ""), container=True, padding=True, min_height=140)],
        _continuation, PROMPTS),
    "text_labels": _About(
        "What kind of text?", "Write or paste a text: the model says what it takes it for.", "Read it",
        _prompt("Text", "Write something"), lambda: [_labels()],
        lambda answers, text: ((answers.text_labels(text),), ""), TEXTS),
    "image_labels": _About(
        "What is to be seen?", "Upload a photo or take one: the model says what it takes it for.", "Look", _image,
        lambda: [_labels()], lambda answers, path: ((answers.image_labels(path),), "")),
    "depth": _About(
        "How far away?", "Upload a photo or take one: the model tells every pixel's depth. Move the slider to compare.",
        "Measure", _image, lambda: [_slider()], _of_image),
    "enlarged": _About(
        "Super-resolution", "Upload a small image: the model draws it larger. Move the slider to compare.",
        "Enlarge", _image, lambda: [_slider()], _of_image),
}
_ABOUT["disparity"] = _ABOUT["depth"]
