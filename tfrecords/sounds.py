"""Where the sounds of a folder are, by the names that tables give them."""

import os
import re
import unicodedata

from tfhf.data import storage
from tfhf.data.schema import RecordError

ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".webm", ".oga", ".aif", ".aiff", ".aifc",
           ".au", ".snd", ".caf", ".w64", ".sph", ".nist", ".mp2", ".mka", ".mkv", ".wma", ".amr", ".3gp",
           ".mov", ".voc")
# Folders beside a table, or below it, in which the sounds of known corpora lie.
_USUAL = ("clips", "wavs", "wav", "audio")


def is_sound(name):
    """Is it named as a sound file is?"""
    return name.lower().endswith(ENDINGS)


def _fold(name):
    """Names that a table and a folder may write differently: composed or decomposed letters, upper or lower case"""
    return unicodedata.normalize("NFC", name).casefold()


class Sounds:
    """The sounds in `folder`, local or gs://. Each folder is listed once: on gs:// that is a request."""

    def __init__(self, folder):
        self.folder = os.fspath(folder)
        self._listings, self._folded = {}, {}

    def names(self, folder):
        """-> set of the names in a folder."""
        if folder not in self._listings:
            self._listings[folder] = frozenset(storage.list_names(folder))
        return self._listings[folder]

    def folders(self, folder):
        """-> sorted names of the folders in a folder, but for hidden ones and what macOS leaves in archives."""
        def is_folder(name):
            if storage.is_remote(self.folder):   # a listing does not tell; files have endings
                return "." not in name
            return os.path.isdir(os.path.join(folder, name))

        return [name for name in sorted(self.names(folder))
                if not name.startswith(".") and name != "__MACOSX" and is_folder(name)]

    def walk(self, folder=None):
        """Yields (folder, sorted names of the files in it) of a folder and all below."""
        folder = self.folder if folder is None else folder
        below = self.folders(folder)
        yield folder, sorted(name for name in self.names(folder) - set(below) if not name.startswith("."))
        for name in below:
            yield from self.walk(storage.join(folder, name))

    def inside(self, path):
        """A path -> the same from the folder on, with slashes."""
        return path.removeprefix(self.folder.rstrip("/") + "/")

    def find(self, name, table_folder, first=False):
        """A table's file name -> its path: in the folder, one of its usual ones or the table's, with its ending or not.

        first: look in the table's own folder before the others.
        Raises RecordError, which does not name the table: there is none, several, or it lies outside.
        """
        if storage.is_remote(name):
            return name
        if re.match(r"[A-Za-z]:[\\/]", name):
            raise RecordError(f"{name!r} is a path of a Windows machine, expected one in {self.folder}")
        if os.path.isabs(name):
            return self._match(os.path.dirname(name), os.path.basename(name)) or self._missing(name)
        own = [self.folder, *(storage.join(self.folder, usual) for usual in _USUAL)]
        folders = [table_folder, *own] if first else [*own, table_folder]
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            parts = [part for part in spelled.split("/") if part not in ("", ".")]
            if ".." in parts:
                parts = os.path.normpath("/".join(parts)).split("/")
            if not parts or parts[0] == "..":
                raise RecordError(f"{name!r} leads outside of {self.folder}, expected a file in it, or an absolute "
                                  "path")
            for folder in dict.fromkeys(folders):
                if len(parts) > 1 and not storage.is_remote(folder) and parts[0] not in self.names(folder):
                    continue
                found = self._match(storage.join(folder, *parts[:-1]), parts[-1])
                if found:
                    return found
        return self._missing(name)

    def _missing(self, name):
        raise RecordError(f"no sound {name!r} in {self.folder} or its clips/")

    def _match(self, folder, name):
        names = self.names(folder)
        for ending in ("", *ENDINGS):
            if name + ending in names:
                return storage.join(folder, name + ending)
        if folder not in self._folded:
            folded = self._folded[folder] = {}
            for known in sorted(names):
                folded.setdefault(_fold(known), []).append(known)
        for ending in ("", *ENDINGS):
            alike = self._folded[folder].get(_fold(name + ending), [])
            if len(alike) > 1:
                raise RecordError(f"{name!r} may be {' or '.join(map(repr, alike))} in {folder}, expected the exact "
                                  "name")
            if alike:
                return storage.join(folder, alike[0])
        return None
