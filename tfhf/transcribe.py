"""`tfhf transcribe FILE ...`: recordings of any length to text, JSON or subtitles by a Whisper model; no run is needed.

Texts go to standard output, or as one file for each recording and format into a folder; what happens meanwhile goes to
standard error. A recording that cannot be read is one line there; the others are transcribed all the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time

from tfhf.data import storage
from tfhf.models.whisper.subtitles import to_srt, to_vtt

DEFAULT_CHECKPOINT = "openai/whisper-tiny"
FORMATS = ("txt", "json", "srt", "vtt")
INTERRUPTED = 130   # a shell's status for SIGINT
EPILOG = """\
tfhf transcribe talk.m4a                                           the text
tfhf transcribe talk.m4a --format srt > talk.srt                   subtitles
tfhf transcribe *.mp3 --format all --output-dir out                txt, json, srt and vtt of each
tfhf transcribe call.wav --checkpoint runs/mine --language pt-BR   by a run's last checkpoint
"""


class TranscribeError(ValueError):
    """A request that cannot be done; nothing was transcribed."""


def parser() -> argparse.ArgumentParser:
    """The options of `tfhf transcribe`."""
    made = argparse.ArgumentParser(prog="tfhf transcribe", description=__doc__, epilog=EPILOG,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("files", metavar="FILE", nargs="+", help="a recording of any length, local or gs://")
    made.add_argument("--checkpoint", metavar="WHERE", default=DEFAULT_CHECKPOINT,
                      help="folder of a run, folder of a checkpoint, or hub id (%(default)s)")
    made.add_argument("--step", help="of a run: last (default), best, or a number")
    made.add_argument("--language", help="code, English name or tag such as pt-BR; default: the run's, or heard")
    made.add_argument("--task", choices=("transcribe", "translate"), help="translate: into English")
    made.add_argument("--prompt", help="text as if said before: names, spelling, style")
    made.add_argument("--format", default="txt", help=f"one or several of {','.join(FORMATS)}, or all (%(default)s)")
    made.add_argument("--output-dir", metavar="DIR", help="write NAME.txt, NAME.srt ... there instead of printing")
    existing = made.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace files that are already in DIR")
    existing.add_argument("--skip-existing", action="store_true", help="leave out recordings whose files are in DIR")
    made.add_argument("--batch-size", type=int, default=1, help="recordings decoded side by side (%(default)s)")
    made.add_argument("--num-beams", type=int, default=1, help="above 1: beam search (%(default)s)")
    made.add_argument("--debug", action="store_true", help="show where an error came from")
    return made


def main(argv: list[str], load_task) -> int:
    """Transcribes; returns the exit status: 0, 1 if a recording could not be read, 2 after one line for a request that
    cannot be done, 130 when interrupted.

    Args:
        argv: the arguments.
        load_task: function of a task's name -> its module; a run is loaded by its task.
    """
    arguments = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):   # a terminal may not have the letters of every language
        stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments, load_task)
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:   # the reader of our output has gone, as `head` does
        sys.stdout = open(os.devnull, "w")   # Python flushes it once more at its end
        return 1
    except (ValueError, OSError) as error:
        if arguments.debug or not isinstance(error, (TranscribeError, storage.StorageError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


@dataclasses.dataclass
class _Recording:
    """One FILE, and {format: path} of what will be written of it."""

    path: str
    outputs: dict

    @property
    def name(self) -> str:
        """The path as it can be printed."""
        return _printable(self.path)


def _run(arguments, load_task) -> int:
    formats = _formats(arguments.format)
    recordings = [_Recording(path, _outputs(path, formats, arguments.output_dir)) for path in arguments.files]
    _check_outputs(recordings, formats, arguments)
    if arguments.batch_size < 1 or arguments.num_beams < 1:
        raise TranscribeError(f"--batch-size {arguments.batch_size}, --num-beams {arguments.num_beams}: expected 1 or "
                              "more")
    wanted = [recording for recording in recordings if not _is_done(recording, arguments)]
    found = [recording for recording in wanted if _is_file(recording)]
    failed = len(wanted) - len(found)
    if found:
        model, request = _load(arguments, load_task)
        if arguments.output_dir:
            with storage.writing(arguments.output_dir):
                storage.make_folder(arguments.output_dir)
        failed += _transcribe_all(model, request, found, formats, len(recordings) > 1, arguments)
    if failed:
        print(f"{failed} of {len(recordings)} recordings could not be transcribed", file=sys.stderr)
    return 1 if failed else 0


def _formats(text):
    names = FORMATS if text == "all" else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise TranscribeError(f"--format {text}: got {unknown[0]!r}, expected one or several of {','.join(FORMATS)}, "
                              "or all")
    return names


def _outputs(path, formats, folder):
    if folder is None:
        return {}
    stem = os.path.splitext(os.path.basename(path.rstrip("/")))[0]
    return {name: storage.join(folder, f"{stem}.{name}") for name in formats}


def _check_outputs(recordings, formats, arguments):
    """Refuses what would mix recordings, or write over a file that nobody asked to replace."""
    if arguments.output_dir is None:
        if arguments.overwrite or arguments.skip_existing:
            raise TranscribeError("--overwrite and --skip-existing: expected --output-dir with them")
        if len(formats) > 1 or len(recordings) > 1 and formats[0] in ("srt", "vtt"):
            raise TranscribeError(f"--format {arguments.format} with {len(recordings)} recordings: expected "
                                  "--output-dir, a folder for a file of each")
        return
    if not storage.is_remote(arguments.output_dir) and os.path.exists(arguments.output_dir) and not os.path.isdir(
            arguments.output_dir):
        raise TranscribeError(f"--output-dir {arguments.output_dir}: is a file, expected a folder")
    first = {}
    for recording in recordings:
        for output in recording.outputs.values():
            if output in first:
                raise TranscribeError(f"{first[output].name} and {recording.name} would both become {output}; expected "
                                      "names that differ, or one command and folder for each")
            first[output] = recording
    existing = [] if arguments.overwrite or arguments.skip_existing else [o for o in first if storage.exists(o)]
    if existing:
        raise TranscribeError(f"{existing[0]}: exists already, and {len(existing) - 1} more; expected --overwrite to "
                              "replace them, or --skip-existing to leave those recordings out")


def _is_done(recording, arguments):
    if not arguments.skip_existing or not all(storage.exists(path) for path in recording.outputs.values()):
        return False
    print(f"{recording.name}: left out, its files exist", file=sys.stderr)
    return True


def _is_file(recording):
    if storage.is_remote(recording.path) or os.path.isfile(recording.path):
        return True
    what = "is a folder" if os.path.isdir(recording.path) else "no such file"
    print(f"error: {recording.name}: {what}, expected a recording", file=sys.stderr)
    return False


def _load(arguments, load_task):
    """The model with its processor, and {"language", "task", "prompt"} as the model can do them."""
    where = arguments.checkpoint
    config = _run_config(where, load_task)
    if config is None and arguments.step is not None:
        raise TranscribeError(f"--step {arguments.step}: {where} is no folder of a run, expected one")
    pretrained, language, task = where, arguments.language, arguments.task
    if config is not None:
        pretrained, language, task = config.task.pretrained, language or config.task.language, task or config.task.task
    from tfhf.models.whisper.long_form import prompt_ids
    from tfhf.models.whisper.model import WhisperForConditionalGeneration
    from tfhf.models.whisper.processor import WhisperProcessor

    print(f"checkpoint: {where}", file=sys.stderr)
    try:
        processor = WhisperProcessor.from_pretrained(pretrained)
        code = processor.tokenizer.special.check_request(language, task or "transcribe")
        if config is None:
            model = WhisperForConditionalGeneration.from_pretrained(pretrained)
        else:
            from tfhf import run

            trained = load_task("whisper").TASK(config.task)
            model = run.load_trained(trained, where, arguments.step or "last")
        prompt_ids(processor, arguments.prompt, model.config.max_target_positions)
    except (ValueError, OSError) as error:
        # Whatever library says it: the checkpoint or the request cannot be used, and the first line says why.
        raise TranscribeError(f"--checkpoint {where}: {str(error).strip().splitlines()[0]}") from error
    model.processor = processor
    return model, {"language": code, "task": task or "transcribe", "prompt": arguments.prompt}


def _run_config(where, load_task):
    """The `RunConfig` of a run's folder; None where there is no run."""
    path = storage.join(where, "config.json")
    if not (storage.is_remote(where) or os.path.isdir(where)) or not storage.exists(path):
        return None
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise TranscribeError(f"{path}: is damaged, not JSON: {error}") from error
    if not isinstance(content, dict) or "model_type" in content or not {"output", "task"} <= set(content):
        return None
    from tfhf.config import ConfigError
    from tfhf.run_config import RunConfig

    try:
        return RunConfig.load(path, task=load_task("whisper").TASK.Config)
    except ConfigError as error:
        raise TranscribeError(f"{where}: expected a run of the task whisper ({error})") from error


def _transcribe_all(model, request, recordings, formats, several, arguments) -> int:
    """Transcribes and hands out; returns how many recordings could not be read."""
    failed, size = 0, arguments.batch_size
    for start in range(0, len(recordings), size):
        group, waveforms = [], []
        for recording in recordings[start:start + size]:
            waveform = _read(recording)
            failed += waveform is None
            if waveform is not None:
                group.append(recording)
                waveforms.append(waveform)
        if not group:
            continue
        seconds = [len(waveform) / 16000 for waveform in waveforms]
        progress = _Progress(f"{start + 1}/{len(recordings)} {group[0].name}", seconds)
        answers = model.transcribe(
            waveforms, return_timestamps=formats != ("txt",), progress=progress, batch_size=size,
            num_beams=arguments.num_beams, **request)
        progress.close()
        for recording, length, answer in zip(group, seconds, answers):
            if not answer["text"]:
                print(f"{recording.name}: no speech found", file=sys.stderr)
            answer = {"file": recording.name, "duration": round(length, 3), "task": request["task"], **answer}
            _hand_out(recording, answer, formats, several)
    return failed


def _read(recording):
    """The recording at 16 kHz, or None after one line."""
    from tfhf.data.audio import AudioError, load_audio

    try:
        return load_audio(recording.path, name=recording.name)
    except (AudioError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return None


def _hand_out(recording, answer, formats, several):
    """Prints an answer, or writes it to the recording's files."""
    if recording.outputs:
        for name, path in recording.outputs.items():
            with storage.writing(path):
                storage.write_bytes(path, _text(name, answer, indent=2).encode("utf-8"))
            print(_printable(path), file=sys.stderr)
        return
    text = _text(formats[0], answer)
    print(f"{recording.name}\t{text}" if several and formats == ("txt",) else text,
          end="" if text.endswith("\n") else "\n", flush=True)


def _text(name, answer, indent=None):
    if name == "json":
        return json.dumps(answer, ensure_ascii=False, indent=indent) + "\n"
    if name == "txt":
        return answer["text"] + "\n"
    return {"srt": to_srt, "vtt": to_vtt}[name](answer["segments"])


def _printable(path):
    """A path as it can be printed: a name on the disk may hold bytes that are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


class _Progress:
    """How far a group of recordings is, on one line of a terminal; elsewhere one line at its end.

    Args:
        name: what goes before the figures.
        seconds: the length of each.
    """

    EVERY_S = 0.2

    def __init__(self, name, seconds):
        self._name, self._seconds, self._done = name, seconds, [0.0] * len(seconds)
        self._terminal, self._begin, self._shown = sys.stderr.isatty(), time.monotonic(), 0.0
        self._show()

    def __call__(self, number, seconds):
        self._done[number] = seconds
        if self._terminal and time.monotonic() - self._shown >= self.EVERY_S:
            self._show()

    def close(self):
        """Ends the line."""
        self._done = list(self._seconds)
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        else:
            took = time.monotonic() - self._begin
            print(f"{self._name}: {_clock(sum(self._seconds))} in {took:.1f} s", file=sys.stderr, flush=True)

    def _show(self):
        if self._terminal:
            self._shown = time.monotonic()
            done, total = sum(self._done), sum(self._seconds)
            print(f"\r\033[K{self._name}: {_clock(done)} of {_clock(total)}, {done / total:.0%}", end="",
                  file=sys.stderr, flush=True)


def _clock(seconds):
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
