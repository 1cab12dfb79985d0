"""Packaging of tfhf: the library, the recipes, the dataset writers and the `tfhf` command.

TensorFlow is an extra, because `tensorflow` and `tensorflow-tpu` install the same files: whichever comes last
overwrites the other. Install `.[tf]` on an ordinary machine and `.[tpu]` on a TPU VM, never both.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfhf" / "__init__.py").read_text("utf-8"), re.M).group(1)

REQUIRES = [
    # Keras 3.15 is the version whose trainer the runner was checked on; Python 3.10 can have 3.12 at most.
    "keras>=3.15,<3.16; python_version >= '3.11'",
    "keras>=3.12,<3.13; python_version < '3.11'",
    "numpy>=1.26,<3",
    "tokenizers>=0.21,<1",
    "safetensors>=0.4.5,<1",
    "soundfile>=0.12,<1",
    "soxr>=0.5,<2",
    "jiwer>=4.0,<5",
    "whisper-normalizer>=0.1.10,<0.2",
    "google-cloud-storage>=2.19,<4",  # brings google-crc32c, the checksum of TFRecord framing
]

SERVE = ["fastapi>=0.115,<1", "uvicorn>=0.32,<1", "grpcio>=1.66,<2", "prometheus-client>=0.21,<1"]
CLIENT = ["httpx>=0.27,<1", "grpcio>=1.66,<2", "protobuf>=5,<8"]  # needs no TensorFlow
DEMO = ["gradio>=6,<7", *SERVE, *CLIENT]
NOTEBOOKS = ["nbformat>=5.10,<6", "nbclient>=0.10,<1", "ipykernel>=6.29,<8"]
# cryptography: the throw-away certificates of the GCS server that the tests start.
# playwright: drives the Chromium that is there; it is not asked to fetch one.
# imageio-ffmpeg: an ffmpeg program, to write sound files of every format and to compare what they are read as.
TEST = ["pytest>=8,<10", "pytest-xdist>=3.6,<4", "msgpack>=1.0,<2", "cryptography>=42", "playwright>=1.50,<2",
        "imageio-ffmpeg>=0.6,<1", *DEMO, *NOTEBOOKS]
# What the tests compare with; every such test is skipped, with the reason, where this is missing. On x86-64 Linux the
# default index serves the CUDA build of torch, which is large and works all the same.
REFERENCE = ["torch==2.13.0", "transformers>=5,<6", "peft>=0.21,<1", "datasets>=4,<6",
             "jax==0.10.2; python_version >= '3.11'", "scikit-image>=0.22,<1"]

EXTRAS = {
    # tensorboard: `tfhf train` writes summaries, and TensorFlow 2.21 does not bring it any more.
    "tf": ["tensorflow>=2.20,<2.22", "tensorboard>=2.20,<3"],
    # tensorflow-tpu 2.20.0 asks for libtpu~=0.0.14; from 0.0.32 on, importing TensorFlow beside it aborts.
    "tpu": ["tensorflow-tpu==2.20.0", "libtpu>=0.0.17,<0.0.32", "tensorboard>=2.20,<3"],
    "hf": ["datasets>=4,<6", "huggingface_hub>=0.34,<3"],
    "text": ["tensorflow-text>=2.20,<2.22"],  # on a TPU VM install it with --no-deps: it depends on `tensorflow`
    "beam": ["apache-beam>=2.77,<3"],  # `tfhf records … --beam`; the writers' machines only
    "io": ["tensorflow-io==0.37.1"],  # loads on TensorFlow 2.16 only; nothing here needs it
    "preflight": ["jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.51"],  # Python 3.11 or newer
    "serve": SERVE,
    "client": CLIENT,
    "demo": DEMO,
    "test": TEST,
    "reference": REFERENCE,
    "dev": TEST + REFERENCE,
}

setup(
    name="tfhf",
    version=VERSION,
    description="From a raw dataset in a bucket to a served model, on Cloud TPU, with TensorFlow and Keras",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["tfhf*", "pipelines*", "tfrecords*"]),
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["tfhf = pipelines.__main__:main"]},
)
