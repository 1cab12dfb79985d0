"""Folders of images into records: every layout, and what is wrong with a folder, named."""

import io
import os
import re
import shutil

import numpy as np
import pytest

from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import IMAGE_DEPTH, IMAGE_LABEL, IMAGE_PAIR, STEREO, RecordError
from tfrecords.__main__ import main
from tfrecords.imagefolder import ImageFolder

Image = pytest.importorskip("PIL.Image", reason="writes images for the test")


def put(folder, *names, size=(4, 6), dtype="uint8", value=9):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size, value, dtype)).save(path)
    return folder


def written(folder, out, *arguments):
    assert main(["imagefolder", "--folder", str(folder), "--out", str(out), *map(str, arguments)]) == 0
    return out


def examples(out, kind, split="train"):
    with RecordReader(out / split, kind) as reader:
        found = [kind.decode(reader.read(number)) for number in range(len(reader))]
    return [{name: value.numpy() for name, value in example.items()} for example in found]


def options(out, split="train"):
    return read_manifest(out / split)["options"]


def ids(dataset, split="train"):
    return [item["id"] for item in dataset.examples(split)]


def test_classes_by_folder(tmp_path):
    folder = put(tmp_path / "in", "train/dog/1.jpg", "train/cat/2.JPEG", "train/cat/1.png", "val/dog/7.png")
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / "cat" / ".hidden.png").write_text("no image")
    out = written(folder, tmp_path / "out", "--licence", "CC0")
    found = examples(out, IMAGE_LABEL)
    assert [(one["id"].decode(), int(one["label"])) for one in found] == [("cat/1.png", 0), ("cat/2.JPEG", 0),
                                                                          ("dog/1.jpg", 1)]
    assert found[2]["image"] == (folder / "train" / "dog" / "1.jpg").read_bytes() and found[0]["pixels"] == 24
    assert [int(one["label"]) for one in examples(out, IMAGE_LABEL, "validation")] == [1]
    assert options(out, "validation")["classes"] == ["cat", "dog"]   # of all splits: numbers are the same in each
    assert read_manifest(out / "train")["dataset"]["licence"] == "CC0"
    alone = ImageFolder(folder / "train")
    assert alone.splits() == ("train",) and alone.classes == ["cat", "dog"]
    assert list(alone.examples("train", 2)) == [{"id": "dog/1.jpg", "label": 1, "files": ("dog/1.jpg",)}]


def test_originals(tmp_path):
    put(tmp_path / "in", "baby.png", "bird.png", size=(5, 7))
    out = written(tmp_path / "in", tmp_path / "out")
    assert [(one["id"], one["image"], one["pixels"]) for one in examples(out, IMAGE_PAIR)] == [
        (b"baby", b"", 35), (b"bird", b"", 35)]
    put(tmp_path / "splits", "train/a.png", "Set5/b.png")
    assert ImageFolder(tmp_path / "splits").splits() == ("Set5", "train")


def test_div2k(tmp_path):
    folder = tmp_path / "in"
    for part, name in (("train", "0001"), ("train", "0002"), ("valid", "0801")):
        put(folder, f"DIV2K_{part}_HR/{name}.png", size=(8, 12))
        put(folder, f"DIV2K_{part}_LR_bicubic/X4/{name}x4.png", size=(2, 3))
        put(folder, f"DIV2K_{part}_LR_bicubic/X2/{name}x2.png", size=(4, 6))
    out = written(folder, tmp_path / "out")
    found, = examples(out, IMAGE_PAIR, "validation")
    assert found["id"] == b"0801" and found["pixels"] == 6 and options(out)["scale"] == 4
    assert found["target"] == (folder / "DIV2K_valid_HR/0801.png").read_bytes()
    assert len(examples(out, IMAGE_PAIR)) == 2
    other = ImageFolder(folder, scale=2)
    assert other.load(next(other.examples("train")))["pixels"] == 24
    with pytest.raises(RecordError, match="0001.png: no 0001x3.png in .*X3"):
        ImageFolder(folder, scale=3)


@pytest.mark.parametrize("rgb, depth, name", [
    ("train/kitchen_1/rgb_00045.jpg", "train/kitchen_1/sync_depth_00045.png", "kitchen_1/00045"),
    ("train/rgb/a.jpg", "train/depth/a.png", "a"),
])
def test_nyu(tmp_path, rgb, depth, name):
    folder = put(put(tmp_path / "in", rgb), depth, dtype="uint16", value=1500)
    put(folder, "train/kitchen_1/rgb_00046.jpg")   # an image whose depth was not released
    out = written(folder, tmp_path / "out")
    found, = examples(out, IMAGE_DEPTH)
    assert found["id"].decode() == name and found["depth_scale"] == np.float32(0.001)
    assert found["depth"] == (folder / depth).read_bytes()
    assert options(out)["depth"] == {"unit": "metre", "scale": 0.001, "invalid": 0}


def test_pairs_by_name(tmp_path):
    folder = put(tmp_path / "in", "train/blurred/1.jpg", "train/sharp/1.png", "test/blurred/2.jpg", "test/sharp/2.png")
    out = written(folder, tmp_path / "out", "--pairs", "blurred", "sharp")
    found, = examples(out, IMAGE_PAIR, "test")
    assert found["id"] == b"2" and found["image"] == (folder / "test/blurred/2.jpg").read_bytes()
    put(folder, "test/sharp/3.png")
    with pytest.raises(RecordError, match=r"test: 1 files have no partner .* such as \['3'\]"):
        ImageFolder(folder, pairs=["blurred", "sharp"])


def test_stereo_of_kitti(tmp_path):
    drives = tmp_path / "raw"
    for drive in ("2011_09_26/drive_0001_sync", "2011_09_26/drive_0002_sync"):
        for camera in ("image_02", "image_03"):
            put(drives, *(f"{drive}/{camera}/data/{number:010d}.png" for number in range(2)))
    out = written(drives, tmp_path / "out", "--stereo", "image_02/data", "image_03/data")
    found = examples(out, STEREO)
    assert len(found) == 4 and found[1]["id"] == b"2011_09_26/drive_0001_sync/0000000001"
    assert found[0]["disparity"] == b""
    names = tmp_path / "files.txt"
    left = "2011_09_26/drive_0002_sync/image_02/data/0000000001.jpg"
    names.write_text(f"{left} {left.replace('02/d', '03/d')}\n")
    chosen = ImageFolder(drives, stereo=["image_02/data", "image_03/data"], lists=[f"test={names}"])
    assert chosen.splits() == ("test",) and ids(chosen, "test") == ["2011_09_26/drive_0002_sync/0000000001"]
    names.write_text("nowhere/1.jpg\n")
    with pytest.raises(RecordError, match="files.txt, line 1: nowhere/1.jpg is not in"):
        ImageFolder(drives, stereo=["image_02/data", "image_03/data"], lists=[f"test={names}"])


def test_stereo_with_disparity(tmp_path):
    folder = put(tmp_path / "in", *(f"training/{side}/{name}_10.png" for side in ("image_2", "image_3")
                                    for name in ("000000", "000001")))
    put(folder, "training/disp_occ_0/000000_10.png", dtype="uint16", value=2560)
    out = written(folder, tmp_path / "out", "--stereo", "image_2", "image_3", "disp_occ_0")
    first, second = examples(out, STEREO)
    assert first["disparity"] and not second["disparity"] and first["disparity_scale"] == 1 / 256
    assert options(out)["disparity"] == {"unit": "pixel", "scale": 1 / 256, "invalid": 0}


def test_a_bad_file_is_named_or_left_out_and_listed(tmp_path, capsys):
    folder = put(tmp_path / "in", "cat/1.png", "cat/2.png", "dog/1.png")
    data = (folder / "cat" / "2.png").read_bytes()
    (folder / "cat" / "2.png").write_bytes(data[:len(data) - 20])
    assert main(["imagefolder", "--folder", str(folder), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "cat/2.png: " in error and "cannot be decoded" in error
    out = written(folder, tmp_path / "out", "--skip-bad", 1)
    assert len(examples(out, IMAGE_LABEL)) == 2
    assert "cat/2.png" in str(read_manifest(out / "train")["skipped"])


def test_files_of_every_strange_kind_go_in_as_they_are(tmp_path, assets):
    """A palette, an animation, CMYK, 16 bits, a photo that lies on its side, one pixel: stored unchanged."""
    folder = tmp_path / "in" / "strange"
    folder.mkdir(parents=True)
    for name in ("green_palette.png", "no_time_for_that_tiny.gif", "horse.png"):
        (folder / name).write_bytes((assets("scikit-image") / name).read_bytes())
    Image.new("CMYK", (8, 4), (9, 99, 0, 30)).save(folder / "cmyk.jpg")
    Image.fromarray(np.full((4, 8), 40000, "uint16")).save(folder / "16bit.png")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(folder / "turned.jpg", exif=exif)
    out = written(tmp_path / "in", tmp_path / "out")
    found = {one["id"].decode(): one for one in examples(out, IMAGE_LABEL)}
    assert len(found) == 7
    for name, one in found.items():
        assert one["image"] == (tmp_path / "in" / name).read_bytes()
    assert found["strange/pixel.png"]["pixels"] == 1


@pytest.mark.parametrize("files, arguments, message", [
    ((), {}, "no such folder, or empty"),
    (("a.txt",), {}, r"no known layout; it holds \['a.txt'\]"),
    (("cat/1.png", "dog/x.txt"), {}, "dog: no images in it, expected those of the class 'dog'"),
    (("a/1.png", "b/1.png"), {"pairs": ["a", "c"]}, r"1 files have no partner of the same name in a and c"),
    (("a/1.png",), {"pairs": ["x", "y"]}, "no folder 'x' in it or below"),
    (("a/1.png",), {"layout": "pairs"}, "got --pairs None, expected it with layout pairs"),
    (("a/1.png",), {"stereo": ["a"]}, "expected LEFT RIGHT or LEFT RIGHT DISPARITY"),
    (("a/1.png",), {"layout": "div2k"}, "no images in layout div2k"),
    (("a/1.png",), {"lists": ["train=x"]}, "expected it with --stereo only"),
    (("a.jpg", "a.png"), {}, "the id 'a' occurs twice"),
    (("a.jpg", "cat/b.png"), {}, "images beside folders of images, .'cat'.; expected --layout"),
    (("train/contact.png", "train/cat/1.png", "train/dog/1.png"), {},
     "train/contact.png: images beside folders of images, .'train/cat'.; expected --layout originals or classes"),
    (("contact.jpg", "train/cat/1.png", "val/cat/2.png"), {}, "contact.jpg: images beside folders of images"),
    (("test/1.jpg", "train/cat/1.png", "train/dog/1.png"), {}, "test/1.jpg: images beside folders of images"),
    (("train/cat/1.png", "val/x.txt"), {}, "val: no images in it, expected folders of classes"),
    (("train/cat/1.png", "train/dog/__MACOSX/2.png"), {}, "dog: no images in it, expected those of the class 'dog'"),
    (("blurred/1.png", "blurred/1.jpg", "sharp/1.png"), {"pairs": ["blurred", "sharp"]},
     "blurred/1.png: .*blurred/1.jpg has the same name but for its ending"),
    (("caf\u00e9/1.png", "cafe\u0301/2.png"), {}, "two folders of classes are called .*, in two forms of Unicode"),
])
def test_what_is_wrong_with_a_folder(tmp_path, files, arguments, message):
    for name in files:
        if name.endswith((".png", ".jpg")):
            put(tmp_path / "in", name)
        else:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_text("x")
    with pytest.raises(RecordError, match=message):
        ImageFolder(tmp_path / "in", **arguments)


def data_of(kind, size=(4, 6), value=9, **options):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, "uint8")).save(file, kind, **options)
    return file.getvalue()


def lines_of(folder, capsys, *arguments, status=1):
    """What the command says: of an error, the last line is that."""
    code = main(["imagefolder", "--folder", str(folder), "--out", str(folder) + "-records", *arguments])
    assert code == status
    return capsys.readouterr().err.splitlines()


def test_what_a_file_is_its_content_says(tmp_path, capsys):
    """Upper case, rare endings, none at all, a wrong one: each a picture of its class, as its bytes are."""
    folder = tmp_path / "in" / "cat"
    folder.mkdir(parents=True)
    files = {"1.JPG": "JPEG", "2.jpe": "JPEG", "3.jfif": "JPEG", "4.webp": "WEBP", "5": "PNG", "6.jpg": "PNG",
             "7.dat": "GIF", "8.Bmp": "BMP", "9.png": "WEBP", "photo.from.2024": "JPEG", "10.WebP": "WEBP"}
    for name, kind in files.items():
        (folder / name).write_bytes(data_of(kind))
    (folder / "BM notes").write_text("BMW and others: no picture")
    dataset = ImageFolder(tmp_path / "in")
    assert sorted(ids(dataset)) == sorted(f"cat/{name}" for name in files)
    assert dataset.found() == ["layout classes, 1 classes; train 11",
                               "passed over 1 file or folder, cat/BM notes: they hold no pictures"]
    found = examples(written(tmp_path / "in", tmp_path / "out"), IMAGE_LABEL)
    assert all(one["image"] == (folder / one["id"].decode()[4:]).read_bytes() and one["pixels"] == 24 for one in found)
    assert len(found) == len(files)


def test_what_systems_leave_behind_is_passed_over_and_named(tmp_path):
    folder = put(tmp_path / "in", "train/cat/1.png", "train/dog/1.png", "__MACOSX/train/cat/2.png",
                 "train/__MACOSX/cat/3.png", "train/@eaDir/1.png", "train/cat/.trash.png")
    for name in (".DS_Store", "train/cat/Thumbs.db", "train/dog/desktop.ini", "train/dog/._1.png", "train/labels.csv"):
        (folder / name).write_bytes(b"\0\5\x16\7" * 9)
    dataset = ImageFolder(folder)
    assert dataset.classes == ["cat", "dog"] and dataset.splits() == ("train",)
    assert ids(dataset) == ["cat/1.png", "dog/1.png"]
    line = dataset.found()[-1]
    assert line.startswith("passed over 9 files and folders, .DS_Store, __MACOSX, train/@eaDir, train/__MACOSX, "
                           "train/cat/.trash.png and 4 more")


OTHER_KINDS = {
    "1.tiff": (b"II*\0aaaa", "a TIFF file"), "2.heic": (b"\0\0\0\x18ftypheic", "a HEIC file"),
    "3.svg": (b"<svg/>", "a SVG file"), "4.avif": (b"\0\0\0\x18ftypavif", "an AVIF file"),
    "5": (b"MM\0*aaaa", "a TIFF file"), "6.jpg": (b"\0\0\0\x18ftypmif1", "a HEIC file"),
    "7.xyz": (b'<?xml version="1.0"?>\n<svg xmlns="">', "a SVG file"), "8.png": (b"8BPS\0\1", "a PSD file"),
    "9.jxl": (b"\xff\x0a", "a JPEG XL file"), "10.pgm": (b"P5 1 1 255 a", "a PGM file")}


def test_pictures_of_other_kinds_are_named_and_can_be_skipped(tmp_path, capsys):
    folder = put(tmp_path / "in", "cat/0.png", "dog/0.png")
    for name, (data, said) in OTHER_KINDS.items():
        path = folder / "dog" / name
        path.write_bytes(data)
        error = lines_of(folder, capsys)[-1]
        assert error == f"error: {path}: {said}, expected JPEG, PNG, GIF, BMP or WebP: convert it"
        path.rename(tmp_path / f"kept-{name}")
    for name in OTHER_KINDS:
        (tmp_path / f"kept-{name}").rename(folder / "dog" / name)
    lines_of(folder, capsys, "--skip-bad", str(len(OTHER_KINDS)), status=0)
    manifest = read_manifest(str(folder) + "-records/train")
    assert manifest["count"] == 2 and len(manifest["skipped"]) == len(OTHER_KINDS)


def test_links_and_what_is_no_file(tmp_path, capsys):
    """A link to a picture or a folder counts as that; one that leads nowhere, or in a circle, is named."""
    folder = put(tmp_path / "in", "cat/1.png", "dog/1.png")
    elsewhere = put(tmp_path / "elsewhere", "cow/1.png", "2.png")
    (folder / "cow").symlink_to(elsewhere / "cow")
    (folder / "cat" / "2.png").symlink_to(elsewhere / "2.png")
    assert ids(ImageFolder(folder)) == ["cat/1.png", "cat/2.png", "cow/1.png", "dog/1.png"]
    for make, said in (
            (lambda path: path.symlink_to("nowhere.png"), "a link to nowhere.png, which does not exist"),
            (lambda path: path.symlink_to(path.name), "a link to .*, which does not exist or cannot be reached"),
            (lambda path: path.symlink_to(folder), "a link that leads to a folder above it"),
            (lambda path: os.mkfifo(path), "no ordinary file, expected an image")):
        path = folder / "cat" / "odd.png"
        make(path)
        assert_said(lines_of(folder, capsys)[-1], f"error: {path}: {said}")
        path.unlink()
    (folder / "cat" / "no-ending").symlink_to("nowhere")
    lines_of(folder, capsys, "--skip-bad", "1", status=0)
    assert "no-ending" in str(read_manifest(str(folder) + "-records/train")["skipped"])
    (folder / "cat" / "no-ending").unlink()
    (folder / "mouse").symlink_to("nowhere")   # where a class should be
    assert_said(lines_of(folder, capsys, "--overwrite")[-1], f"error: {folder}/mouse: a link to nowhere, which does")


def assert_said(line, pattern):
    assert re.match(pattern, line), line


def test_an_image_outside_its_class_is_skipped_where_the_layout_is_given(tmp_path, capsys):
    folder = put(tmp_path / "in", "train/cat/1.png", "train/dog/1.png", "train/contact.png", "cover.png")
    lines = lines_of(folder, capsys, "--layout", "classes")
    assert_said(lines[-1], f"error: {folder}/cover.png: an image beside the folders of classes, expected it in")
    lines_of(folder, capsys, "--layout", "classes", "--skip-bad", "2", status=0)
    manifest = read_manifest(str(folder) + "-records/train")
    assert manifest["count"] == 2 and manifest["options"]["classes"] == ["cat", "dog"]
    assert "contact.png" in str(manifest["skipped"]) and "cover.png" in str(manifest["skipped"])


def test_folders_inside_a_class_belong_to_it(tmp_path):
    for name, files in (("split", ("train/cat/a/1.png", "train/cat/b/c/1.png", "train/dog/1.png")),
                        ("flat", ("cat/a/1.png", "cat/b/c/1.png", "dog/1.png"))):
        dataset = ImageFolder(put(tmp_path / name, *files))
        assert dataset.classes == ["cat", "dog"] and dataset.splits() == ("train",)
        assert ids(dataset) == ["cat/a/1.png", "cat/b/c/1.png", "dog/1.png"]
    put(tmp_path / "split", "val/cat/1.png", "annotations/xml/1.png")
    (tmp_path / "split" / "annotations" / "xml" / "1.png").unlink()
    dataset = ImageFolder(tmp_path / "split")
    assert dataset.found() == ["layout classes, 2 classes; train 3, validation 1",
                               "validation has no image of 1 class, dog",
                               "passed over 1 file or folder, annotations: they hold no pictures"]


def test_an_ending_changed_or_a_picture_changed_is_noticed(tmp_path, capsys):
    folder = put(tmp_path / "in", "cat/1.png", "dog/1.png")
    lines_of(folder, capsys, status=0)
    assert "already complete" in lines_of(folder, capsys, status=0)[-1]
    put(folder, "cat/1.png", size=(5, 5))
    error = lines_of(folder, capsys)[-1]
    assert "was made of other sources" in error and "cat/1.png" in error and error.endswith("--overwrite")
    shutil.copy(folder / "cat" / "1.png", folder / "cat" / "2.jfif")
    assert "--overwrite" in lines_of(folder, capsys)[-1]
    lines_of(folder, capsys, "--overwrite", status=0)


def test_a_name_that_is_not_utf8(tmp_path, capsys):
    folder = put(tmp_path / "in", "cat/1.png", "dog/1.png")
    os.rename(os.fsencode(folder / "cat" / "1.png"), os.fsencode(folder / "cat") + b"/caf\xe9.png")
    assert "its name is not UTF-8: rename it" in lines_of(folder, capsys)[-1]
    os.rename(os.fsencode(folder / "dog"), os.fsencode(folder) + b"/caf\xe9")
    assert "has a name that is not UTF-8: rename it" in lines_of(folder, capsys)[-1]
