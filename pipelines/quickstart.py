"""The whole road in one command, `make quickstart`: real speech, a real checkpoint, a served transcript.

Runs the commands of the README one after another, in one process: records of 568 prompts (468 train, 50 validation,
50 test), Whisper tiny.en evaluated as it is, fine-tuned briefly, evaluated again, exported, and three clips transcribed
through the SavedModel. The run's folder is runs/quickstart (or the first argument); run again, it goes on where it was.

Expected on 2 CPU cores: see docs/results.md. If the prompts cannot be had, speech synthesised by eSpeak NG stands in.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import soundfile

from pipelines.__main__ import main as tfhf
from tfhf.assets import ASSETS, AssetUnavailable, fetch
from tfhf.data.records import RecordReader
from tfhf.data.schema import SPEECH_TEXT

CLIPS = 3
# All that a client needs: TensorFlow, and nothing of tfhf.
CLIENT = """
import json, sys, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(wav=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
print(json.dumps([text.decode("utf-8") for text in answer["text"].numpy()]))
"""


class Steps:
    """Runs commands, stops at the first that fails, and keeps the times for the table."""

    def __init__(self):
        self.rows = []

    def time(self, name, function, *arguments):
        print(f"\n== {name}", flush=True)
        begin = time.perf_counter()
        result = function(*arguments)
        self.rows.append([name, time.perf_counter() - begin, ""])
        return result

    def run(self, name, *command):
        def run():
            print(f"$ tfhf {' '.join(command)}", flush=True)
            status = tfhf(list(command))
            if status:
                sys.exit(f"quickstart: `tfhf {' '.join(command)}` failed with status {status}")
        self.time(name, run)

    def say(self, text):
        self.rows[-1][2] = text
        print(f"   {text}", flush=True)

    def table(self):
        print(f"\n{'step':<34}{'seconds':>9}   result\n{'-' * 88}")
        for name, seconds, result in self.rows:
            print(f"{name:<34}{seconds:>9.1f}   {result}")
        print(f"{'-' * 88}\n{'all':<34}{sum(row[1] for row in self.rows):>9.1f}")


def fetch_assets():
    """-> (checkpoint folder, the writer for the speech that can be had)."""
    try:
        checkpoint = fetch("whisper-tiny.en")
    except AssetUnavailable as error:
        sys.exit(f"quickstart: the checkpoint cannot be had: {error}")
    try:
        fetch("asterisk-prompts")
        return checkpoint, "asterisk"
    except AssetUnavailable as error:
        print(f"\n{'!' * 88}\n!! THE RECORDED PROMPTS CANNOT BE HAD: {error}\n"
              "!! Speech synthesised by eSpeak NG is used: the figures below are not those of docs/results.md.\n"
              f"{'!' * 88}\n", flush=True)
        return checkpoint, "espeak"


def score(run, when):
    """What `tfhf evaluate` wrote: -> (metrics, {clip: prediction})."""
    folder = sorted((run / "evaluation").glob(f"test-{when}*"))[-1]
    lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
    predictions = {line["id"]: line["prediction"] for line in map(json.loads, lines)}
    return json.loads((folder / "metrics.json").read_text("utf-8"))["metrics"], predictions


def some_clips(records, folder):
    """Writes the first test clips of five words or more as WAV files; -> [(id, path, reference)]."""
    clips = []
    folder.mkdir(parents=True, exist_ok=True)
    with RecordReader(records / "test", SPEECH_TEXT) as reader:
        for number in range(len(reader)):
            example = {name: value.numpy() for name, value in SPEECH_TEXT.decode(reader.read(number)).items()}
            if len(example["text"].split()) >= 5 and len(clips) < CLIPS:
                clips.append((example["id"].decode(), folder / f"{len(clips) + 1}.wav", example["text"].decode()))
                soundfile.write(clips[-1][1], example["audio"], int(example["sample_rate_hz"]), "PCM_16")
    return clips


def transcribe(export, clips):
    """-> the texts that the newest version in `export` gives for the clips, in a process of its own."""
    newest = max((path for path in export.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    result = subprocess.run([sys.executable, "-c", CLIENT, str(newest), *[str(path) for _, path, _ in clips]],
                            stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"quickstart: the client of {newest} failed with status {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def percent(metrics):
    return "WER {:.1f} %: {substitutions} S, {deletions} D, {insertions} I of {reference_words} words".format(
        100 * metrics["wer"], **metrics)


def main(argv=None):
    """Runs every step; -> exit status."""
    run = Path((argv or ["runs/quickstart"])[0])
    records, steps = run / "records", Steps()
    checkpoint, writer = steps.time("fetch checkpoint and speech", fetch_assets)
    steps.say(f"{ASSETS['whisper-tiny.en'].licence} checkpoint; speech: {writer}")
    task = ["whisper", "--recipe", "quickstart", "--output", str(run), "--data", str(records),
            f"task.pretrained={checkpoint}"]
    steps.run("write records", "records", writer, "--out", str(records))
    count = sum(json.loads(path.read_text("utf-8"))["count"] for path in records.glob("*/manifest.json"))
    steps.say(f"{count} clips")
    steps.run("evaluate the checkpoint", "evaluate", *task, "--split", "test", "--checkpoint", "initial")
    before, _ = score(run, "initial")
    steps.say(percent(before))
    steps.run("fine-tune", "train", *task)
    steps.run("evaluate again", "evaluate", *task, "--split", "test")
    after, predictions = score(run, "step")
    steps.say(percent(after))
    clips = some_clips(records, run / "clips")
    steps.run("export", "export", *task, *[str(path) for _, path, _ in clips])
    texts = steps.time(f"transcribe {len(clips)} clips, SavedModel", transcribe, run / "export" / "whisper", clips)
    same = sum(text == predictions[name] for (name, _, _), text in zip(clips, texts))
    steps.say(f"{same} of {len(clips)} as the Python model")
    for (name, _, reference), text in zip(clips, texts):
        print(f"   {name}\n      said: {reference}\n      got:  {text}")
    steps.table()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
