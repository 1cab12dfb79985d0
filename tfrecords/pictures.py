"""What lies in a folder of images: files that are pictures, by their content, and all else by its name."""

import os
import re

from tfhf.data import storage
from tfhf.data.image import ImageError

# By these endings a file is taken for a picture; it is decoded by its content, whatever the ending.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp")
READ = "JPEG, PNG, GIF, BMP or WebP"
# Pictures of kinds that are not read, by ending.
_OTHERS = {
    ".tif": "TIFF", ".tiff": "TIFF", ".heic": "HEIC", ".heif": "HEIF", ".avif": "AVIF", ".svg": "SVG", ".svgz": "SVG",
    ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jxl": "JPEG XL", ".ppm": "PPM", ".pgm": "PGM", ".pbm": "PBM",
    ".pnm": "PNM", ".ico": "ICO", ".cur": "ICO", ".psd": "PSD", ".tga": "TGA", ".exr": "OpenEXR", ".hdr": "HDR",
    ".dng": "DNG", ".cr2": "CR2", ".cr3": "CR3", ".nef": "NEF", ".arw": "ARW", ".raf": "RAF", ".orf": "ORF",
    ".rw2": "RW2", ".qoi": "QOI", ".dds": "DDS", ".pcx": "PCX", ".eps": "EPS", ".wmf": "WMF", ".emf": "EMF"}
# Files that are known to be none; the content of others is looked at.
_NO_IMAGES = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".py",
              ".log", ".ini", ".db", ".zip", ".tar", ".gz", ".tgz", ".npy", ".npz", ".mat", ".pkl", ".pt", ".h5")
# What Windows, macOS and network disks leave beside files.
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin",
               "system volume information", "lost+found"}
_BEGINNINGS = (
    (rb"\xff\xd8\xff", None), (rb"\x89PNG\r\n\x1a\n", None), (rb"GIF8[79]a", None), (rb"RIFF.{4}WEBP", None),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", None),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"), (rb".{4}ftypavi[fs]", "AVIF"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "HEIC"), (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"), (rb"8BPS", "PSD"), (rb"\0\0[\1\2]\0[^\0]\0", "ICO"),
    (rb"\s*(<\?xml.*)?(<!--.*)?(<!DOCTYPE svg.*)?<svg", "SVG"), (rb"P[1-6]\s", "PNM"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"), (rb"qoif", "QOI"), (rb"DDS ", "DDS"), (rb"%!PS", "EPS"))
_LOOKED_AT_BYTES = 512


def kind_of(data):
    """The beginning of a file -> READ for a picture that is read, the kind of another picture, None for no picture"""
    for pattern, other in _BEGINNINGS:
        if re.match(pattern, data[:_LOOKED_AT_BYTES], re.DOTALL):
            return other or READ
    return None


def check_kind(data, name):
    """Raises ImageError, naming the file, for the bytes of a picture of a kind that is not read."""
    kind = kind_of(data)
    if kind not in (None, READ):
        raise ImageError(f"{name}: {_a(kind)} file, expected {READ}: convert it")


class Pictures:
    """The pictures in `folder`, local or gs://, whose folders are listed once each: on gs:// that is a request.

    Paths are those inside of it, with slashes; "" is the whole one.

    Attributes:
      passed_over: paths of what was met and is no picture, nor a folder of pictures.
      problems: {path: why it cannot be used} of what is a picture, or may be one.
      unreadable: paths among them that must not be opened.
    """

    def __init__(self, folder):
        self._folder = folder
        self._listings = {}
        self.passed_over, self.problems, self.unreadable = set(), {}, set()

    def path(self, inside):
        """-> the whole path."""
        return storage.join(self._folder, *inside.split("/")) if inside else self._folder

    def names(self, folder):
        """-> sorted names of all that lies in a folder."""
        return sorted(name for name, _ in self._entries(folder))

    def folders(self, folder):
        """-> sorted names of the folders in a folder."""
        return sorted(name for name, kind in self._entries(folder) if kind == storage.FOLDER
                      and not self._is_of_system(join(folder, name)))

    def images(self, folder):
        """-> sorted names of the files in a folder that are pictures, or may be some: `problems` has what is wrong."""
        return sorted(name for name, kind in self._entries(folder)
                      if kind != storage.FOLDER and self._is_picture(join(folder, name), name, kind))

    def below(self, folder, above=None):
        """Yields the paths of the pictures in a folder and in all below it; a link that leads up again is a problem."""
        if above is None:
            parts = folder.split("/")
            above = tuple(self._real("/".join(parts[:count])) for count in range(len(parts)))
        here = self._real(folder)
        if here in above:
            self.problems[folder] = f"{self.path(folder)}: a link that leads to a folder above it"
            self.unreadable.add(folder)
            yield folder
            return
        for name in self.images(folder):
            yield join(folder, name)
        for name in self.folders(folder):
            yield from self.below(join(folder, name), (*above, here))

    def any_below(self, folder):
        """Are there pictures in the folders of a folder, however deep?"""
        return any(True for name in self.folders(folder) for _ in self.below(join(folder, name)))

    def _real(self, folder):
        return self.path(folder) if storage.is_remote(self._folder) else os.path.realpath(self.path(folder))

    def _entries(self, folder):
        if folder not in self._listings:
            self._listings[folder] = storage.list_entries(self.path(folder))
        return self._listings[folder]

    def _is_of_system(self, path):
        name = path.rpartition("/")[2]
        if name.startswith(".") or name.lower() in _OF_SYSTEMS:
            self.passed_over.add(path)
            return True
        return False

    def _is_picture(self, path, name, kind):
        if self._is_of_system(path):
            return False
        if path in self.problems or path in self.passed_over:
            return path in self.problems
        whole, ending = self.path(path), os.path.splitext(name)[1].lower()
        if not is_utf8(name):
            self._refuse(path, f"{whole!r}: its name is not UTF-8: rename it", True)
        elif kind == storage.BROKEN:
            target = os.readlink(whole) if os.path.islink(whole) else "it"
            self._refuse(path, f"{whole}: a link to {target}, which does not exist or cannot be reached", True)
        elif kind != storage.FILE:
            self._refuse(path, f"{whole}: no ordinary file, expected an image", True)
        elif ending in _OTHERS:
            self._refuse(path, f"{whole}: {_a(_OTHERS[ending])} file, expected {READ}: convert it")
        elif ending not in ENDINGS:
            found = None if ending in _NO_IMAGES else self._look_at(path, whole)
            if found is None:
                self.passed_over.add(path)
                return False
            if found != READ:
                self._refuse(path, f"{whole}: {_a(found)} file, expected {READ}: convert it")
        return True

    def _refuse(self, path, problem, unreadable=False):
        self.problems[path] = problem
        if unreadable:
            self.unreadable.add(path)

    def _look_at(self, path, whole):
        try:
            return kind_of(storage.read_range(whole, 0, _LOOKED_AT_BYTES))
        except storage.StorageError:
            raise
        except OSError as error:
            self._refuse(path, f"{whole}: cannot be read: {error.strerror or error}")
            return READ


def join(*parts):
    """Parts of a path inside a folder -> the path; empty ones are left out."""
    return "/".join(part for part in parts if part)


def is_utf8(name):
    """Is the name of a file one in UTF-8? The bytes of others come as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _a(kind):
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"
