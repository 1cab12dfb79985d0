"""The few file operations that records need, on a local folder and on gs:// alike.

Local paths use the operating system (pread is thread-safe, rename is atomic). gs:// paths go through tf.io.gfile,
which is imported only then. An object in a bucket appears whole or not at all, so no temporary name is needed there.
"""

import contextlib
import fcntl
import os
import threading

ACCESS_TIMEOUT_S = 20.0
_checked_buckets = set()


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


@contextlib.contextmanager
def _gfile(path):
    """Gives tf.io.gfile; TensorFlow's own errors become one StorageError, and a missing object FileNotFoundError."""
    import tensorflow as tf

    _check_bucket(path, tf)
    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path}: not found ({_line(error)})") from error
    except (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError) as error:
        raise StorageError(f"{path}: no permission ({_line(error)}). Expected credentials that may use this bucket: "
                           "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS") from error
    except tf.errors.OpError as error:
        raise StorageError(f"{path}: {type(error).__name__}: {_line(error)}") from error


def _line(error):
    """TensorFlow's message in one line."""
    return " ".join(error.message.split())


def _check_bucket(path, tf):
    """Asks once per bucket whether it answers at all, and gives up after ACCESS_TIMEOUT_S.

    TensorFlow's client repeats a request that found no server ten times with growing pauses, which is minutes of
    silence. The question is therefore asked in a thread that may be left behind.
    """
    bucket = "/".join(str(path).split("/")[:3])
    if bucket in _checked_buckets:
        return
    answer = []

    def ask():
        try:
            # The path itself, not the bucket: who may read objects need not be allowed to look at the bucket.
            answer.append(tf.io.gfile.exists(str(path)))
        except tf.errors.OpError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="tfhf-bucket-check")
    thread.start()
    thread.join(ACCESS_TIMEOUT_S)
    if not answer:
        raise StorageError(f"{bucket}: no answer within {ACCESS_TIMEOUT_S:.0f} s. Expected a bucket that this machine "
                           "can reach: is the network up, and is the name right?")
    if isinstance(answer[0], tf.errors.OpError):
        raise StorageError(f"{bucket}: {type(answer[0]).__name__}: {_line(answer[0])}. Expected a bucket that "
                           "can be reached, and credentials that may use it") from answer[0]
    _checked_buckets.add(bucket)


def exists(path):
    """Is there a file or folder of this name?"""
    if not is_remote(path):
        return os.path.exists(path)
    with _gfile(path) as gfile:
        return gfile.exists(path)


def size(path):
    """Bytes in a file; FileNotFoundError when there is none."""
    if not is_remote(path):
        return os.stat(path).st_size
    with _gfile(path) as gfile:
        return gfile.stat(path).length


def list_names(folder):
    """Sorted names in a folder; empty when the folder does not exist."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    with _gfile(folder) as gfile:
        return sorted(name.rstrip("/") for name in gfile.listdir(folder)) if gfile.exists(folder) else []


def make_folder(folder):
    """Makes a folder and those above it; one that exists is left as it is."""
    if not is_remote(folder):
        os.makedirs(folder, exist_ok=True)
        return
    with _gfile(folder) as gfile:
        gfile.makedirs(folder)


def remove(path):
    """Removes one file; FileNotFoundError when there is none."""
    if not is_remote(path):
        os.unlink(path)
        return
    with _gfile(path) as gfile:
        gfile.remove(path)


def read_bytes(path):
    """A whole file; FileNotFoundError when there is none."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    with _gfile(path) as gfile, gfile.GFile(path, "rb") as file:
        return file.read()


def read_range(path, offset, count):
    """Up to `count` bytes from `offset`; fewer only at the end of the file."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return os.pread(file.fileno(), count, offset)
    with _gfile(path) as gfile, gfile.GFile(path, "rb") as file:
        file.seek(offset)
        return file.read(count)


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
        self._chunks = [] if is_remote(path) else None
        self._file = None if is_remote(path) else open(self.path + ".partial", "wb", buffering=1 << 20)

    def write(self, data):
        """Append bytes."""
        if self._file is None:
            self._chunks.append(data)
        else:
            self._file.write(data)

    def commit(self):
        """Put the file under its name, whole; on a local disk also synchronised."""
        if self._file is None:
            with _gfile(self.path) as gfile, gfile.GFile(self.path, "wb") as file:
                file.write(b"".join(self._chunks))
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.path + ".partial", self.path)
        _sync_folder(os.path.dirname(self.path) or ".")

    def discard(self):
        """Leave nothing behind."""
        self._chunks = None
        if self._file is not None:
            self._file.close()
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
