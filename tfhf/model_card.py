"""The model card of a run, and the run's model on the Hugging Face Hub.

The card says what the run's own files say, and nothing else: config.json, history.jsonl, evaluation/*/metrics.json and
the manifests of the records (Mitchell et al. 2019, "Model Cards"; the Hub's front matter).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from tfhf.data import storage
from tfhf.data.shards import read_manifest
from tfhf.run_config import RunConfig, records_of

# Task -> the Hub's name of it.
PIPELINE_TAGS = {"whisper": "automatic-speech-recognition", "wav2vec2_ctc": "automatic-speech-recognition",
                 "language_id": "audio-classification", "text_classification": "text-classification",
                 "gpt2_pretrain": "text-generation", "gpt2_finetune": "text-generation",
                 "unet_depth": "depth-estimation", "monodepth": "depth-estimation", "srgan": "image-to-image",
                 "image_classification": "image-classification"}
_SHOWN = 12   # metrics of a row of the front matter; the table has all


class ModelCardError(ValueError):
    """A run without what a card or an upload needs; the message says what is missing and where."""


def model_card(task_class, config: RunConfig, licence: str = "unknown") -> str:
    """The card of the run in `config.output`, as Markdown with the Hub's front matter.

    Args:
        licence: of the weights, an SPDX name in lower case; whoever publishes must know it, no file does.

    Raises:
        ModelCardError: the folder holds no run of this task.
    """
    path = storage.join(config.output, "config.json")
    if not storage.exists(path):
        raise ModelCardError(f"{path}: not there, expected the folder of a run")
    config = RunConfig.load(path, task=task_class.Config)
    reports, history = _reports(config.output), _history(config.output)
    records = records_of(config.data, config.data.train_split, True)
    sources = [read_manifest(storage.join(folder, config.data.train_split))
               for folder in config.data.mixture or (config.data.path,)]
    front = {"library_name": "tfhf", "license": licence, "tags": ["tfhf", "keras", task_class.name]}
    if task_class.name in PIPELINE_TAGS:
        front["pipeline_tag"] = PIPELINE_TAGS[task_class.name]
    base = getattr(config.task, "pretrained", None)
    if base and re.fullmatch(r"[\w.-]+/[\w.-]+", str(base)) and not os.path.exists(base):
        front["base_model"] = base
    front["model-index"] = [{"name": task_class.name, "results": [_result(task_class.name, report)
                                                                for report in reports]}] if reports else []
    lines = ["---", *_yaml(front), "---", "", f"# {task_class.name}", "",
             (task_class.__doc__ or "").strip().splitlines()[0] if task_class.__doc__ else "", "",
             "Trained with tfhf, on TensorFlow and Keras. This card was written from the run's own files.", "",
             "## Data", "", "| records | count | fingerprint | licence | origin |", "|---|---|---|---|---|"]
    for manifest, fingerprint in zip(sources, records["fingerprints"], strict=True):
        told = manifest["dataset"]
        lines.append(f"| {_cell(manifest['schema']['name'])} ({_cell(manifest['split'])}) | {manifest['count']:,} | "
                     f"`{fingerprint[:16]}` | {_cell(told.get('licence', 'unknown'))} | "
                     f"{_cell(told.get('origin', 'unknown'))} |")
    lines += ["", "## Results", ""]
    if not reports:
        lines.append("Not evaluated: no evaluation/ in the run.")
    for report in reports:
        lines += [f"Split `{report['split']}`, {report['metrics']['examples']:,} examples, step "
                  f"{report['checkpoint_step']}, fingerprint `{report['data']['fingerprint'][:16]}`:", "",
                  "| metric | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_number(value)} |" for name, value in report["metrics"].items()
                  if isinstance(value, (int, float)) and name != "examples"]
        lines += ["", "```", _command(report["command"]), "```", ""]
    lines += ["## Training", ""]
    if history:
        lines.append(f"{history[-1]['step']:,} steps of {config.batch_size} examples, {config.precision}, "
                     f"{config.optimizer.learning_rate:g} at most; the last loss is {history[-1]['loss']:.4g}.")
    if reports:
        lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in
                                               reports[-1]["versions"].items()) + "."]
    lines += ["", "<details><summary>The whole config</summary>", "", "```json",
              json.dumps(config.to_dict(), indent=2, ensure_ascii=False), "```", "", "</details>", ""]
    return "\n".join(lines)


def push_to_hub(task_class, config: RunConfig, repo_id: str, *, licence: str = "unknown",
                checkpoint: str | int = "last", private: bool = True, token: str | None = None) -> str:
    """Uploads the run's model in Hugging Face's format, its card and TensorBoard's logs; returns the commit's URL.

    Where the Hub is, and who is asking, is huggingface_hub's matter: HF_ENDPOINT, HF_TOKEN, or `token`.

    Raises:
        ModelCardError: see `model_card`; a model that cannot be saved; the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    from tfhf.run import load_trained
    from tfhf.tokenizers.folder import read_tokenizer_json

    card = model_card(task_class, config, licence)   # refuses what is no run
    task = task_class(RunConfig.load(storage.join(config.output, "config.json"), task=task_class.Config).task)
    model = load_trained(task, config.output, checkpoint)
    if not hasattr(model, "save_pretrained"):
        raise ModelCardError(f"task {task.name}: a {type(model).__name__} has no save_pretrained(), so it cannot be "
                             "published; export it instead")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for part in ("processor", "tokenizer"):
            if hasattr(getattr(task, part, None), "save_pretrained"):
                getattr(task, part).save_pretrained(folder)
        tokenizer = getattr(task.config, "tokenizer", None)   # of a language model made from nothing
        if tokenizer is not None and not Path(folder, "tokenizer.json").exists():
            Path(folder, "tokenizer.json").write_text(read_tokenizer_json(tokenizer), "utf-8")
        Path(folder, "README.md").write_text(card, "utf-8")
        events = storage.join(config.output, "tensorboard")
        for name in storage.list_names(events):
            target = Path(folder, "runs", name)   # where the Hub looks for TensorBoard
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(storage.join(events, name)))
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder,
                                         commit_message=f"{task.name}, step {_step(config.output)}"))
        except (_http_error(), HFValidationError, OSError) as error:
            raise ModelCardError(f"{repo_id}: the Hub took nothing: {' '.join(str(error).split())}") from error


def _http_error():
    """The base of all errors of the HTTP library that this huggingface_hub uses; which one, depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _reports(output):
    """The metrics.json of every evaluation but those of the untrained model, by step."""
    folder = storage.join(output, "evaluation")
    found = []
    for name in storage.list_names(folder):
        path = storage.join(folder, name, "metrics.json")
        if storage.exists(path):
            found.append(json.loads(storage.read_bytes(path)))
    return sorted((report for report in found if report["checkpoint_step"] is not None),
                  key=lambda report: (report["split"], report["checkpoint_step"]))


def _history(output):
    path = storage.join(output, "history.jsonl")
    lines = storage.read_bytes(path).decode("utf-8").splitlines() if storage.exists(path) else []
    return [line for line in map(json.loads, lines) if "loss" in line]


def _step(output):
    history = _history(output)
    return history[-1]["step"] if history else 0


def _result(task, report):
    metrics = [(name, value) for name, value in report["metrics"].items()
               if isinstance(value, (int, float)) and name != "examples"][:_SHOWN]
    return {"task": {"type": PIPELINE_TAGS.get(task, task)},
            "dataset": {"name": f"{report['data']['fingerprint'][:16]}", "type": "tfrecords", "split": report["split"]},
            "metrics": [{"name": name, "type": name, "value": value} for name, value in metrics]}


def _yaml(value, indent=""):
    """Lines of YAML. JSON's strings and numbers are YAML's."""
    if isinstance(value, dict):
        lines = []
        for key, each in value.items():
            if isinstance(each, (dict, list)) and each:
                lines += [f"{indent}{key}:", *_yaml(each, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {json.dumps(each, ensure_ascii=False)}")
        return lines
    lines = []
    for each in value:
        if isinstance(each, (dict, list)):
            first, *rest = _yaml(each, indent + "  ")
            lines += [f"{indent}- {first.strip()}", *rest]
        else:
            lines.append(f"{indent}- {json.dumps(each, ensure_ascii=False)}")
    return lines


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _command(words):
    return " ".join(["tfhf" if number == 0 else word for number, word in enumerate(words)])
