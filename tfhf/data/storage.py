"""The few file operations that everything uses, on a local folder and on gs:// alike.

Local paths use the operating system (pread is thread-safe, rename is atomic). gs:// paths go through Google's client
(gcs.py, imported only then). An object in a bucket appears whole or not at all, so no temporary name is needed there.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import os
import re
import shutil
import tempfile
import uuid


class StorageError(OSError):
    """A bucket that does not answer, or a folder or disk that cannot be written; the message names the path."""


# What the operating system says when something cannot be written, and what its user can do.
_REMEDIES = {
    errno.ENOSPC: "the disk is full: remove something, or choose another folder",
    errno.EDQUOT: "your quota of the disk is used up: remove something, or choose another folder",
    errno.EFBIG: "the file is larger than the disk or a limit (`ulimit -f`) allows: choose another disk",
    errno.EROFS: "the disk is mounted read-only: mount it for writing, or choose another folder",
    errno.EACCES: "change its permissions (chmod, chown), or choose another folder",
    errno.EPERM: "change its permissions (chmod, chown), or choose another folder",
    errno.ENOTDIR: "a file stands where a folder is expected: choose another folder",
    errno.EEXIST: "a file stands where a folder is expected: choose another folder",
    errno.EISDIR: "a folder stands where a file is expected: move it away",
    errno.ENOTEMPTY: "a folder stands where another is expected: move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: choose another folder",
    errno.EIO: "the disk fails: choose another one",
    errno.ENXIO: "the disk is gone: choose another folder",
    errno.ENODEV: "the disk is gone: choose another folder",
    errno.ESTALE: "the network disk was mounted anew: mount it again, or choose another folder",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine: end other programs",
    errno.ETXTBSY: "another program uses the file: end it",
    errno.EBUSY: "another program uses it: end it",
}
# Those that come from writing only, wherever they are met.
_FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def write_problem(error, path=None):
    """An OSError of the operating system -> one line: the path, what is wrong, what to do; None for another error.

    Args:
      path: what was to be written; None: that is not known, and only a full or read-only disk is sure to be met in
        writing.
    """
    if isinstance(error, StorageError) or error.errno not in (_REMEDIES if path else _FULL_OR_READ_ONLY):
        return None
    named = error.filename if isinstance(error.filename, str) and error.filename else path
    where = os.fspath(named or tempfile.gettempdir())
    return (f"{where}: cannot be written: {os.strerror(error.errno)}; {_REMEDIES[error.errno]}. Then start the same "
            "command again")


@contextlib.contextmanager
def writing(path):
    """A context in which `path` is written: what the operating system refuses becomes one StorageError."""
    try:
        yield
    except OSError as error:
        line = write_problem(error, path)
        if line is None:
            raise
        raise StorageError(line) from error


def is_remote(path):
    """Is this a URL such as gs://…, and not a path of the operating system?"""
    return "://" in str(path)


def join(folder, *names):
    """Folder and names -> path, with the folder's own kind of separator."""
    folder = os.fspath(folder)
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def short_name(name, most=120):
    """A name of `most` bytes or fewer for a file: a longer one ends in a hash of all of it."""
    data = name.encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    return data[:most - len(digest) - 1].decode("utf-8", "ignore") + "-" + digest


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


def version(path):
    """A tuple that is another one when the file's content changes; FileNotFoundError when there is no such file."""
    if is_remote(path):
        return (os.fspath(path), *_gcs().version(path))
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def list_names(folder):
    """Sorted names in a folder; empty when the folder does not exist."""
    if is_remote(folder):
        return _gcs().list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


# What lies in a folder; a link is what it leads to. SPECIAL: a pipe or the like. BROKEN: a link that leads nowhere.
FILE, FOLDER, SPECIAL, BROKEN = "file", "folder", "special", "broken"


def list_entries(folder):
    """Sorted (name, FILE, FOLDER, SPECIAL or BROKEN) of what is in a folder; empty when the folder does not exist."""
    if is_remote(folder):
        return [(name, FOLDER if is_folder else FILE) for name, is_folder in _gcs().list_entries(folder)]
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted((entry.name, _kind_of(entry)) for entry in entries)


def _kind_of(entry):
    try:
        if entry.is_dir():
            return FOLDER
        if entry.is_file():
            return FILE
        return SPECIAL if os.path.exists(entry.path) else BROKEN
    except OSError:   # links that lead in a circle, a disk that is gone
        return BROKEN


def make_folder(folder):
    """Makes a folder and those above it; one that exists is left as it is."""
    if is_remote(folder):
        _gcs().make_folder(folder)
        return
    with writing(folder):
        os.makedirs(folder, exist_ok=True)


def check_writable(folder):
    """Makes a folder and raises StorageError unless files can be written into it and removed again."""
    make_folder(folder)
    if is_remote(folder):
        path = join(folder, f".writable-{uuid.uuid4().hex}")
        write_bytes(path, b"tfhf")
        remove(path)
        return
    with writing(folder), tempfile.NamedTemporaryFile(prefix=".writable-", dir=folder) as file:
        file.write(b"tfhf")
        file.flush()
        os.fsync(file.fileno())


def free_bytes(folder):
    """Bytes that this process may still write into a local folder, or None where that is not known: in a bucket, and on
    file systems that state no size."""
    if is_remote(folder):
        return None
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize if facts.f_blocks else None


def remove(path):
    """Removes one file; FileNotFoundError when there is none."""
    if is_remote(path):
        _gcs().remove(path)
        return
    with writing(path):
        os.unlink(path)


def remove_folder(folder):
    """Removes a folder with all that is in it; one that does not exist is no error."""
    if is_remote(folder):
        _gcs().remove_folder(folder)
    elif os.path.isdir(folder):
        with writing(folder):
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
    with writing(local), open(local, "wb") as file:
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
        with writing(folder):
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
    is 100-200 MB) and commit() uploads them. What the disk refuses is a StorageError, and the file stays as it was.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._remote = is_remote(path)
        if self._remote:
            self._file = io.BytesIO()
            return
        with writing(self.path):
            self._file = open(self.path + ".partial", "wb", buffering=1 << 20)

    def write(self, data):
        """Append bytes."""
        # Not through writing(): a shard has a hundred thousand records, and a context each would cost their time.
        try:
            self._file.write(data)
        except OSError as error:
            self._refuse(error)

    def commit(self):
        """Put the file under its name, whole; on a local disk also synchronised."""
        if self._remote:
            total = self._file.tell()
            self._file.seek(0)
            _gcs().upload([(self.path, lambda: self._file, total)])
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.path + ".partial", self.path)
            _sync_folder(os.path.dirname(self.path) or ".")
        except OSError as error:
            self._refuse(error)

    def discard(self):
        """Leave nothing behind."""
        with contextlib.suppress(OSError):   # close() writes what is still in memory, on a disk that may be full
            self._file.close()
        if not self._remote:
            with contextlib.suppress(OSError):   # it is missing, or the disk has become read-only
                os.unlink(self.path + ".partial")

    def _refuse(self, error):
        """A StorageError that names the file, and no part of it left behind."""
        self.discard()
        with writing(self.path):
            raise error


def write_tensors(path, tensors, metadata=None):
    """Writes a local .safetensors file, {name: array}."""
    import safetensors   # few of those who write files write tensors
    import safetensors.numpy

    with writing(path):
        try:
            safetensors.numpy.save_file(tensors, path, metadata)
        except safetensors.SafetensorError as error:   # it writes by itself, and gives the system's error as a text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error


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
