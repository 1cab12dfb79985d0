#!/usr/bin/env bash
# On a TPU VM: put what its generation needs into ~/tfhf/.venv. ../setup.sh calls it on every worker.
# usage: worker/setup.sh [TYPE]; default: what the VM's metadata says
set -euo pipefail
. "$(dirname "$0")/../cloud.sh"
cd "$HERE/.."

METADATA=http://metadata.google.internal/computeMetadata/v1/instance/attributes/accelerator-type
UV=0.13.8   # installs Python 3.11 beside the 3.10 of Google's image, which has no venv either
type=${1:-$(curl --fail --silent --show-error --max-time 10 --header 'Metadata-Flavor: Google' "$METADATA")}
generation=$(generation_of "$type")
case $generation in
  v2 | v3 | v4) needs=(tensorflow-tpu libtpu) ;;
  *) needs=(tensorflow-cpu jax jaxlib libtpu) ;;   # TensorFlow for the records alone: train with --backend jax
esac

PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet --disable-pip-version-check "uv==$UV"
[ -x .venv/bin/python ] || python3 -m uv venv --quiet --python 3.11 .venv
pinned=(python3 -m uv pip install --quiet --python .venv/bin/python
  --constraints "tpu_scripts/constraints/$generation.txt")
"${pinned[@]}" --editable '.[hf]' "${needs[@]}"
# It depends on the package named tensorflow, which would overwrite the one that is there.
"${pinned[@]}" --no-deps tensorflow-text
.venv/bin/python - "$type" "$(git rev-parse --short HEAD)" << 'PYTHON'
import importlib.metadata
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_text  # and with it TensorFlow, which ends here if libtpu is not its own

import tfhf

packages = [name for name in ("tensorflow-tpu", "tensorflow-cpu", "tensorflow-text", "keras", "jax", "libtpu")
            if next(importlib.metadata.Distribution.discover(name=name), None)]
versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
print(f"{os.uname().nodename} ({sys.argv[1]}): tfhf {tfhf.__version__} at {sys.argv[2]}, {versions}")
PYTHON
