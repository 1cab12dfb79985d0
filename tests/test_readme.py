"""README.md and docs/: links lead somewhere, commands are accepted, Python compiles; nightly all of it is run.

What a page's reader has and a test has not (a TPU, Google's account, checkpoints from a hub, days of time) is told in
RULES and SIZES: what stands in for it, and why. Anything else runs as it stands on the page.
"""

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import doc_pages
from tests.doc_pages import PAGES, ROOT, Rule, blocks, lines_of
from tests.hub_stand_in import Hub
from tests.tpu_scripts.conftest import cloud, repository  # fixtures  # noqa: F401
from tfhf.assets import cache_folder

# How a recipe is made small, by task and recipe; "*": every command of every task. Two steps say that a page's commands
# work, not what they teach: that is what the proofs of the tasks are for. What stands on the page wins.
_SPEECH = "task.max_seconds=1.0 task.apply_spec_augment=false task.pretrained={models}/wav2vec2"
_CTC = f"{_SPEECH} task.vocabulary={{models}}/wav2vec2 task.max_label_symbols=32"
_REVIEWS = "eval_batch_size=100 task.pretrained={models}/bert task.max_tokens=24,40,60"
_WHISPER = "task.pretrained={models}/whisper task.max_label_tokens=32 task.max_new_tokens=8"
_SRGAN = "task.model.hidden_size=8 task.model.num_residual_blocks=1 task.discriminator.image_size=32"
SIZES = {
    "*": "steps_per_execution=1 steps=2 log_every=1 checkpoint_every=2 evaluate_every=0 accumulate=1 batch_size=2 "
         "eval_batch_size=4 precision=float32 jit_compile=false optimizer.warmup_steps=0",
    "whisper default": f"{_WHISPER} task.language=en",            # nor German
    "whisper hindi_small": f"{_WHISPER} task.language=english",   # the tiny vocabulary has no Hindi
    "whisper quickstart": "eval_batch_size=10 task.max_new_tokens=24",
    "wav2vec2_ctc head": _CTC,
    "wav2vec2_ctc finetune": _CTC,
    "language_id default": _SPEECH,
    "text_classification default": "task.pretrained={models}/bert task.max_tokens=24",
    "text_classification reviews": _REVIEWS,
    "text_classification reviews_lora": _REVIEWS,
    "gpt2_pretrain default": "task.row_length=512 task.max_new_tokens=8 task.model.n_head=2 task.model.n_embd=32 "
                             "task.model.n_layer=1 task.model.vocab_size=8000",
    "gpt2_pretrain king_james": "task.max_new_tokens=8",
    "gpt2_finetune default": "task.row_length=512 task.max_prompt_tokens=32 task.max_new_tokens=8",
    "image_classification mnist": "eval_batch_size=100",
    "image_classification resnet50_finetune": "task.model=resnet8 task.pretrained=scratch task.image.size=32",
    "unet_depth nyu": "task.image_size=18,26 task.crop_size=15,21 task.crop=none task.model.hidden_sizes=4,8",
    "monodepth kitti": "task.image_size=128,128 task.crop_size=128,128 task.model.encoder_hidden_sizes=8,8,8,8,8,8,8 "
                       "task.model.decoder_hidden_sizes=8,8,8,8,8,8,8",
    "srgan default": _SRGAN,
    "srgan adversarial": f"{_SRGAN} task.content=pixels",
    "byte_sentiment default": "eval_batch_size=100",
}
RULES = (
    # Not run.
    Rule(r"^make ", None, "the environment of the tests is there; `make` itself is what CI and the nightly run are"),
    Rule(r"^pip install ", None, "a registry, and the environment of the tests; test_extras_exist reads them"),
    Rule(r"^gcloud ", None, "a Google account"),
    Rule(r"ssh-add ", None, "somebody's key"),
    Rule(r"^(kubectl|.*docker compose) ", None, "a cluster, docker; tests/tpu_scripts/test_deploy.py reads the files"),
    Rule(r"^tensorboard ", None, "it serves a browser until it is stopped"),
    Rule(r"^tfhf preflight ", None, "minutes and up to 20 GB; tests/preflight, and `make preflight` for all recipes"),
    Rule(r"TF_CONFIG=|--strategy workers", None, "two hosts; tests/test_strategy_workers.py"),
    # Run otherwise.
    Rule(r"^tfhf records hf --source mozilla\S+ --splits \S+ \S+", "tfhf records audiofolder --folder speech",
         "the hub"),
    Rule(r"gs://BUCKET", "{bucket}", "a bucket of the server in tests/gcs_server.py"),
    Rule(r"^(tfhf .*) --strategy tpu", r"\1", "a TPU"),
    Rule(r"openai/whisper-tiny", "{models}/whisper", "the hub"),
    Rule(r"openai-community/gpt2", "{models}/gpt2", "the hub"),
    Rule(r'RECIPES\["reviews_lora"\]', r'\g<0>.override(["task.pretrained={models}/bert", "task.max_tokens=24,40,60"])',
         "the hub"),
    Rule(r"task.vgg=vgg19", "", "VGG19's weights; the content loss is on pixels"),
    Rule(r"^(tfhf transcribe (?!.*--checkpoint)[^#>]*)", r"\1 --checkpoint {models}/whisper ", "the hub"),
    Rule(r"^(tfhf doctor[^#]*)", r"\1 || [ $? = 1 ] ", "an environment of tests may have faults of its own"),
    Rule(r"^tfhf data serve --host 10.0.0.5 --port 5050", "background tfhf data serve --port {port}", "it never ends"),
    Rule(r"input_servers=10\.0\.0\.5:5050,10\.0\.0\.6:5050", "input_servers=127.0.0.1:{port}", "two more machines"),
    Rule(r"^tfhf serve ", "background tfhf serve ", "it never ends"),
    Rule(r"^(tfhf demo [^#]*)", r"background \1 --port 0 ", "it never ends"),
    Rule(r"share=True", "share=False, port=0", "Gradio's public servers"),
    Rule(r"\b8500\b", "{port}", "a port that is free here"),
    Rule(r"\b8501\b", "{port_1}", "a port that is free here"),
    Rule(r"^(tpu_scripts/logs\.sh)", r"until_stopped \1", "it follows the log until Ctrl-C"),
    Rule(r"^(tpu_scripts/tensorboard\.sh)", r"\1 --dry-run", "a browser"),
    Rule(r"^(tpu_scripts/delete\.sh)", r"\1 --yes", "nobody is there to be asked"),
    Rule(r"\bREPOSITORY\b", "{repository}", "the scripts alone, as a git repository"),
    Rule(r"--price PRICE (.*)--ref TAG", r"--price 2 \1--ref main", "the stand-in's price and branch"),
)
# What lies in a reader's folder before a page begins.
_EXPORT = f"tfhf export whisper --checkpoint initial {_WHISPER} --export-dir"
BEFORE = {"serving.md": f"{_EXPORT} runs/hindi/export", "demo.md": f"{_EXPORT} runs/mine/export"}
MADE = ("speech_commands", "byte_sentiment")   # docs/new_dataset.md and new_task.md write their files
NEEDS = {"engine.md": ["jax"], "serving.md": ["grpc", "fastapi", "httpx"],
         "demo.md": ["gradio", "grpc"]}   # what a page cannot do without


def _texts():
    """(name, text) of each page, and of each recipe's and writer's docstring."""
    for page in PAGES:
        yield page.name, "".join(line + "\n" for block in blocks(page, "bash") for line in lines_of(block))
    for folder in ("pipelines", "tfrecords"):
        for path in sorted((ROOT / folder).glob("[a-z]*.py")):
            text = re.sub(r"\n {8,}(?=[\w.]+=)", " ", ast.get_docstring(ast.parse(path.read_text("utf-8"))))
            found = re.findall(r"^ *(tfhf (?:records|train|evaluate|predict|export|data) .*)", text, re.M)
            yield path.name, "".join(re.sub(r" \.\.\.| {2,}.*", "", line) + "\n" for line in found)


def commands():
    """The arguments of every `tfhf …` of the pages and docstrings, and of those that tpu_scripts/run.sh passes on."""
    for name, text in _texts():
        for line in re.sub(r" > .*", "", text).splitlines():
            words = shlex.split(line, comments=True) if re.match(r"tfhf |tpu_scripts/run\.sh ", line) else []
            if set(words) & {"--help", *MADE}:
                continue
            if words[:1] == ["tfhf"]:
                yield pytest.param(words[1:], id=f"{name}: {line[:60]}")
            elif words and not words[1].startswith("--"):
                yield pytest.param(words[3:], id=f"{name}: {line[:60]}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#]+)", prose)
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_python_and_bash(page):
    for block in blocks(page):
        if block.language == "python":
            assert compile(block.code, f"{page.name}:{block.line}", "exec")
        else:
            assert subprocess.run(["bash", "-n", "-c", block.code]).returncode == 0, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_are_run(page):
    """A command in a block of no language, or of another, would be run by nobody."""
    prose = re.sub(r"^ *```(bash|python).*?^ *```", "", page.read_text("utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^```\w*\n(?:tfhf|tpu_scripts/|pip|python|make|kubectl|docker).*", prose, re.M)
    assert not [line for line in re.findall(r"^ {4,}((?:tfhf|tpu_scripts/|pip) .*)", prose, re.M)
                if not any(line in block.code for block in blocks(page))]


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands_are_accepted(arguments):
    if arguments[0] == "records":
        from tfrecords.__main__ import _parser

        assert _parser().parse_args(arguments[1:]).out
    elif arguments[0] == "transcribe":
        from tfhf.transcribe import parser

        assert parser().parse_args(arguments[1:]).files
    elif arguments[0] in ("serve", "doctor"):
        pass   # parsers of their own, which the nightly run meets
    else:
        from pipelines.__main__ import load_task, parse, recipe_of

        parsed = parse(arguments)
        if hasattr(parsed, "recipe"):
            assert recipe_of(load_task(parsed.task), parsed).output


def test_scripts_that_are_named_exist():
    named = {name for page in PAGES for name in re.findall(r"tpu_scripts/\w+\.sh", page.read_text("utf-8"))}
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_extras_exist():
    """`pip install '.[tf,serve]'`: extras that setup.py has."""
    extras = set(re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text("utf-8"), re.M))
    for page in PAGES:
        for line in re.findall(r"pip install .*", page.read_text("utf-8")):
            for named in re.findall(r"(?:\.|tfhf)\[([\w,]+)\]", line):
                assert set(named.split(",")) <= extras, f"{page.name}: {line}"


def test_the_figures_of_the_readme_were_measured():
    """What the table of tasks expects stands in docs/results.md."""
    results = (ROOT / "docs/results.md").read_text("utf-8")
    rows = re.findall(r"^\| `\w+`.*?\| .*? \| (.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.M)
    figures = [figure for row in rows for figure in re.findall(r"\d+\.\d+", row)]
    assert len(rows) == 11 and figures and not [figure for figure in figures if figure not in results]


@pytest.mark.parametrize("name", [name for name in SIZES if name.split()[0] not in ("*", *MADE)])
def test_sizes_are_settings(name):
    from pipelines.__main__ import load_task

    task, recipe = name.split()
    words = f"{SIZES['*']} {SIZES[name]}".format(models="models")
    assert load_task(task).RECIPES[recipe].override(words.split()).steps == 2


def test_every_rule_and_size_is_needed():
    code = [line for page in PAGES for block in blocks(page) for line in lines_of(block)]
    assert not [rule.pattern for rule in RULES if not any(re.search(rule.pattern, line) for line in code)]
    named = {f"{words.values[0][1]} {words.values[0][words.values[0].index('--recipe') + 1]}"
             if "--recipe" in words.values[0] else f"{words.values[0][1]} default" for words in commands()
             if len(words.values[0]) > 1}
    assert not set(SIZES) - {"*", "byte_sentiment default"} - named


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random checkpoints in Hugging Face's layout, a folder each: whisper, wav2vec2, bert, gpt2."""
    from tfhf.models.bert.convert import write_tiny_checkpoint as write_bert
    from tfhf.models.gpt2.config import GPT2Config
    from tfhf.models.gpt2.model import GPT2LMHeadModel
    from tfhf.models.wav2vec2.convert import write_tiny_checkpoint as write_wav2vec2
    from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
    from tfhf.models.whisper.convert import write_tiny_checkpoint as write_whisper
    from tfhf.tokenizers.training import train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    write_whisper(folder / "whisper")
    write_bert(folder / "bert")
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=512, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(folder / "gpt2")
    train_tokenizer(["and the LORD said unto Moses"], folder / "gpt2" / "tokenizer.json", "bpe", 270,
                    special_tokens=["<|endoftext|>"])
    letters = Wav2Vec2CTCTokenizer.from_corpus(["yes no hello"], log=lambda line: None)
    write_wav2vec2(folder / "wav2vec2")
    letters.save_pretrained(folder / "wav2vec2")
    return folder


def _readers_files(folder, models):
    """What the pages take to lie in the reader's folder: sounds, texts, images, each a few and small."""
    draw = np.random.default_rng(0)

    def sound(name, seconds=0.8):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, draw.normal(0, 0.1, round(16_000 * seconds)), 16_000)

    def image(name, height=64, width=96, dtype="uint8", channels=3):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(1, 200, (height, width, channels)).astype(dtype)
        write = tf.io.encode_jpeg if name.endswith(".jpg") else tf.io.encode_png
        (folder / name).write_bytes(write(pixels).numpy())

    for name in ("clip.wav", "a.wav", "b.wav"):
        sound(name)
    sound("lecture.flac", 0.9)
    for split in ("train", "validation", "test"):
        rows, lines = ["file_name,text,language"], []
        for number, (text, language) in enumerate((("Yes", "en"), ("No", "de"), ("Hello", "en"), ("Yes", "de"))):
            sound(f"speech/{split}/{number}.wav")
            rows.append(f"{split}/{number}.wav,{text},{language}")
            sound(f"LibriSpeech/{split}/1/2/1-2-{number}.flac")
            lines.append(f"1-2-{number} {text.upper()}")
            for kind in ("cat", "dog"):
                image(f"images/{split}/{kind}/{number}.jpg")
            image(f"nyu/{split}/rgb/{number}.jpg")
            image(f"nyu/{split}/depth/{number}.png", dtype="uint16", channels=1)
        (folder / f"speech/{split}.csv").write_text("\n".join(rows))
        (folder / f"LibriSpeech/{split}/1/2/1-2.trans.txt").write_text("\n".join(lines))
    for number in range(1, 5):
        for part in ("train", "valid"):
            image(f"DIV2K/DIV2K_{part}_HR/{number:04}.png", 160, 160)
            image(f"DIV2K/DIV2K_{part}_LR_bicubic/X4/{number:04}x4.png", 40, 40)
        for side in ("02", "03"):
            image(f"kitti/2011_09_26/drive/image_{side}/data/{number}.png")
        sound(f"speech_commands/yes/{number}.wav")
        sound(f"speech_commands/no/{number}.wav")
    pairs = [" ".join(f"2011_09_26/drive/image_{side}/data/{number}.png" for side in ("02", "03")) for number in (1, 2)]
    (folder / "eigen_train_files.txt").write_text("\n".join(pairs))
    (folder / "speech_commands/validation_list.txt").write_text("yes/1.wav\nno/1.wav\n")
    (folder / "speech_commands/testing_list.txt").write_text("yes/2.wav\n")
    image("photo.jpg")
    words = "and the LORD said unto Moses in the beginning there was a dog that jumped over fox".split()
    (folder / "book.txt").write_text("\n\n".join(" ".join(draw.choice(words, 60)) for _ in range(80)))
    (folder / "prompt.txt").write_text("and the LORD said")
    (folder / "review.txt").write_text("The food was good.")
    for name in ("train", "test"):
        rows = [json.dumps({"text": f"the food was {stars}, number {number}", "stars": stars})
                for number in range(8) for stars in ("good", "bad")]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    shutil.copytree(models / "gpt2", folder / "gpt2")


def _free_ports():
    """{port} to {port_2}: three free ones in a row, for what serves."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        with contextlib.ExitStack() as stack:
            try:
                for number in range(3):
                    stack.enter_context(socket.create_server(("127.0.0.1", port + number)))
            except OSError:
                continue
        return {"port": port, "port_1": port + 1, "port_2": port + 2}


@pytest.mark.nightly
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_a_page_runs_from_its_top_to_its_bottom(page, models, gcs, cloud, assets, tmp_path):  # noqa: F811
    for name in ("whisper-tiny.en", "asterisk-prompts", "mnist-5k", "reviews", "minilm-l6", "king-james-bible",
                 "scikit-image"):
        assets(name)
    for name in NEEDS.get(page.name, ()):
        pytest.importorskip(name)
    folder = doc_pages.copy_of_the_checkout(tmp_path / "checkout")
    _readers_files(folder, models)
    places = {"bucket": gcs.new_bucket(), "models": models, "repository": shlex.quote(cloud.repository)}
    places |= _free_ports()
    sizes = {name: words.format(**places) for name, words in SIZES.items()}
    with Hub() as hub:
        environment = {**os.environ, **cloud.environment, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "2",
                       "TFHF_CACHE": str(cache_folder().parent), "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret",
                       "HF_HUB_OFFLINE": "0", "TFHF_NIGHTLY": "",
                       "PATH": f"{folder / 'bin'}{os.pathsep}{cloud.environment['PATH']}"}
        before = BEFORE.get(page.name, "").format(**places)
        script = doc_pages.script_of(page, RULES, sizes, places, before)
        status, output = doc_pages.run(script, folder, environment)
    assert status == 0, f"{page.name}: status {status}; its output ends with\n{output[-6000:]}"
