"""The few file operations that everything uses, on a local folder and on gs:// alike.

Local paths use the operating system (pread is thread-safe, rename is atomic). gs:// paths go through Google's client
(gcs.py, imported only then). An object in a bucket appears whole or not at all, so no temporary name is needed there.
"""

import contextlib
import fcntl
import io
import itertools
import os
import shutil


class StorageError(OSError):
    """A bucket that does not answer, or does not allow what was asked; the message names the path."""


def is_remote(path):
    """Is this a URL such as gs://…, and not a path of the operating system?"""
    return "://" in str(path)


def join(folder, *names):
    """Folder and names -> path, with the folder's own kind of separator."""
    folder = os.fspath(folder)
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def _gcs():
    # Google's client takes half a second to import, which local work need not wait for.
    from tfhf.data import gcs

    return gcs


def exists(path):
    """Is there a file or folder of this name?"""
    return _gcs().exists(path) if is_remote(path) else os.path.exists(path)


def size(path):
    """Bytes in a file; FileNotFoundError when there is none."""
    return _gcs().size(path) if is_remote(path) else os.stat(path).st_size


def list_names(folder):
    """Sorted names in a folder; empty when the folder does not exist."""
    if is_remote(folder):
        return _gcs().list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def make_folder(folder):
    """Makes a folder and those above it; one that exists is left as it is."""
    if is_remote(folder):
        _gcs().make_folder(folder)
    else:
        os.makedirs(folder, exist_ok=True)


def remove(path):
    """Removes one file; FileNotFoundError when there is none."""
    if is_remote(path):
        _gcs().remove(path)
    else:
        os.unlink(path)


def remove_folder(folder):
    """Removes a folder with all that is in it; one that does not exist is no error."""
    if is_remote(folder):
        _gcs().remove_folder(folder)
    elif os.path.isdir(folder):
        shutil.rmtree(folder)


def read_bytes(path):
    """A whole file; FileNotFoundError when there is none."""
    if is_remote(path):
        return _gcs().read_bytes(path)
    with open(path, "rb") as file:
        return file.read()


def read_range(path, offset, count):
    """Up to `count` bytes from `offset`; fewer only at the end of the file."""
    if is_remote(path):
        return _gcs().read_range(path, offset, count)
    with open(path, "rb") as file:
        return os.pread(file.fileno(), count, offset)


def read_chunks(path, chunk_bytes=16 << 20):
    """Gives a file in pieces of `chunk_bytes`, in order; in a bucket the next ones are on their way meanwhile."""
    if is_remote(path):
        yield from _gcs().read_chunks(path, chunk_bytes)
        return
    with open(path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


def download(path, local):
    """Copies a file to a local path, synchronised with the disk."""
    chunks = read_chunks(path)
    first = next(chunks, b"")   # a missing one leaves no empty copy behind
    with open(local, "wb") as file:
        for chunk in itertools.chain([first], chunks):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def upload(files):
    """Copies local files into a bucket, {local path: gs:// path}, in parallel, with checksums and progress.

    Each object appears when it is whole; they come in any order, so what marks the others as complete goes in a second
    call. Raises StorageError or FileNotFoundError at the first that fails.
    """
    _gcs().upload([(path, lambda local=local: open(local, "rb"), os.path.getsize(local))
                   for local, path in files.items()])


class FolderLock:
    """Keeps a second local writer out of a folder until close(); the lock goes with the process, however it ends."""

    def __init__(self, folder):
        self._descriptor = None
        if is_remote(folder):
            return   # a bucket has no locks; shards are uploaded whole, and equal writers upload equal shards
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StorageError(f"{folder}: another writer is at work in this folder") from error

    def close(self):
        """Let other writers in; harmless when done twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class AtomicFile:
    """A file that appears under its name only when commit() is called, whole and on disk.

    Locally the bytes go to NAME.partial, which commit() syncs and renames. For gs:// they are kept in memory (a shard
    is 100-200 MB) and commit() uploads them.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._remote = is_remote(path)
        self._file = io.BytesIO() if self._remote else open(self.path + ".partial", "wb", buffering=1 << 20)

    def write(self, data):
        """Append bytes."""
        self._file.write(data)

    def commit(self):
        """Put the file under its name, whole; on a local disk also synchronised."""
        if self._remote:
            total = self._file.tell()
            self._file.seek(0)
            _gcs().upload([(self.path, lambda: self._file, total)])
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.path + ".partial", self.path)
        _sync_folder(os.path.dirname(self.path) or ".")

    def discard(self):
        """Leave nothing behind."""
        self._file.close()
        if not self._remote:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + ".partial")


def write_bytes(path, data):
    """Writes a small file atomically."""
    file = AtomicFile(path)
    file.write(data)
    file.commit()


def _sync_folder(folder):
    # A rename survives a power cut only when the folder itself has been synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
