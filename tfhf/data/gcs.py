"""Objects of Google Cloud Storage by their gs:// path: what storage.py calls when a path is one.

Google's own client does the work (google-cloud-storage): a read is one request, so that 32 threads of the input
pipeline are 32 requests under way (TensorFlow's gs:// client reads 512 KB at least for each); an upload carries its
CRC32C and goes on where a connection broke. What passes (503, 429, a cut or stalled connection) is tried again with
growing pauses for RETRY_S, with a word on stderr; what does not (404, 403) is one error at once.
TensorFlow's client stays where TensorFlow itself opens a path: TensorBoard's events and SavedModels.
"""

import base64
import collections
import concurrent.futures
import contextlib
import functools
import http.client
import sys
import threading
import time

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google_crc32c
import requests
import urllib3
from google.api_core.retry import Retry
from google.cloud import storage as google_storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from tfhf.data.storage import StorageError

ACCESS_S = 8.0              # how long the first question to a bucket may take, retries included
RETRY_S = 300.0             # how long what passes is tried again: a run outlives some minutes without network
TIMEOUT_S = (10.0, 20.0)    # to connect, and between two packets: a stream that stalls longer is asked anew
UPLOAD_CHUNK = 32 << 20     # what a broken upload repeats at most; smaller files go up in one request
READ_CHUNK = 16 << 20
THREADS = 8                 # files that go up, objects that are deleted, at the same time
_CONNECTIONS = 64
_PROGRESS_EVERY_S = 5.0

_NETWORK_ERRORS = (
    requests.exceptions.ConnectionError, requests.exceptions.Timeout, requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError, DataCorruption)
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_seen_buckets = set()
_said = {"at": -1e9}


def _passes(error):
    """Is this an error that goes away by itself?"""
    if isinstance(error, google.auth.exceptions.TransportError):
        return True   # the token could not be fetched
    return _status(error) in _PASSING_STATUS or isinstance(error, _NETWORK_ERRORS)


def _status(error):
    """HTTP status of an error of either of the client's two kinds, or None."""
    if isinstance(error, api_errors.GoogleAPICallError):
        return error.code
    return error.response.status_code if isinstance(error, InvalidResponse) else None


def _say_again(error):
    now = time.monotonic()
    if now - _said["at"] > 10:   # threads by the dozen meet the same outage
        _said["at"] = now
        print(f"Google Cloud Storage: {_line(error)}; trying again", file=sys.stderr, flush=True)


def _retry(seconds):
    return Retry(_passes, initial=0.25, maximum=8.0, multiplier=2.0, timeout=seconds, on_error=_say_again)


def _options(seconds=None):
    """What every call of the client gets; a list of blobs and a blob's methods take the same two names."""
    return {"retry": _retry(RETRY_S if seconds is None else seconds), "timeout": TIMEOUT_S}


@functools.lru_cache(1)
def _client():
    try:
        # No project: only making and listing buckets needs one, which nothing here does.
        client = google_storage.Client(project="<none>")
    except google.auth.exceptions.DefaultCredentialsError:
        client = google_storage.Client.create_anonymous_client()   # public buckets can be read without credentials
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS)
    client._http.mount("https://", adapter)   # the way Google's manual shows: requests keeps 10 connections otherwise
    client._http.mount("http://", adapter)
    return client


def forget():
    """Drops the client and what is known of buckets; the next call reads credentials and environment anew."""
    _client.cache_clear()
    _seen_buckets.clear()
    _said["at"] = -1e9


def _parse(path):
    """gs://BUCKET/NAME -> (BUCKET, NAME)"""
    scheme, _, rest = str(path).partition("://")
    bucket, _, name = rest.partition("/")
    if scheme != "gs" or not bucket:
        raise StorageError(f"{path}: expected a local path or gs://BUCKET/NAME")
    return bucket, name


@contextlib.contextmanager
def _blob(path):
    """Gives the path's Blob; the client's many errors become FileNotFoundError or one StorageError with the path."""
    bucket, name = _parse(path)
    _check_bucket(bucket, path)
    with _errors(path):
        yield _client().bucket(bucket).blob(name)


@contextlib.contextmanager
def _errors(path):
    try:
        yield
    except api_errors.RetryError as error:
        raise StorageError(f"{path}: given up after {RETRY_S:.0f} s of trying: {_line(error.cause)}") from error
    except (api_errors.GoogleAPICallError, InvalidResponse, google.auth.exceptions.GoogleAuthError,
            requests.exceptions.RequestException, *_NETWORK_ERRORS) as error:
        status = _status(error)
        if status == 404:
            raise FileNotFoundError(f"{path}: not found in its bucket") from error
        if status in (401, 403) or isinstance(error, google.auth.exceptions.RefreshError):
            raise StorageError(
                f"{path}: no permission ({_line(error)}). Expected credentials that may use this bucket: on a TPU VM "
                "the right `Storage Object Admin` for its service account, elsewhere `gcloud auth application-default "
                "login` or GOOGLE_APPLICATION_CREDENTIALS") from error
        raise StorageError(f"{path}: {type(error).__name__}: {_line(error)}") from error


def _line(error):
    """An error in one short line."""
    status = _status(error)
    text = " ".join(str(error).split()) if status is None else (
        f"{status} {http.client.responses.get(status, '')}: {' '.join(str(getattr(error, 'message', '')).split())}")
    return text if len(text) <= 300 else text[:300] + " …"


def _check_bucket(bucket, path):
    """Asks once per bucket whether it is there and answers; StorageError within about 10 s otherwise.

    In a thread that may be left behind: a machine without network can wait for a name or a token much longer.
    """
    if bucket in _seen_buckets:
        return
    answer = []

    def ask():
        try:
            # A listing, since who may use objects need not be allowed to look at the bucket itself.
            with _errors(path):
                first = _client().list_blobs(bucket, max_results=1, fields="items(name)", **_options(ACCESS_S))
                next(iter(first), None)
            answer.append(None)
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="tfhf-bucket-check")
    thread.start()
    thread.join(ACCESS_S + 2)
    cause = answer[0].__cause__ if answer and answer[0] else None
    if not answer or isinstance(cause, api_errors.RetryError):
        last = f" (the last answer: {_line(cause.cause)})" if cause else ""
        raise StorageError(f"gs://{bucket}: no answer within {ACCESS_S + 2:.0f} s{last}. Expected a bucket that this "
                           "machine can reach: is the network up, and is the name right?")
    if isinstance(answer[0], FileNotFoundError):
        raise StorageError(f"gs://{bucket}: there is no such bucket (wanted for {path}). Expected the name of one that "
                           "exists: `gcloud storage ls` shows those of the project") from cause
    # 403: no right to list. Whoever may read or write objects only gets on; the operation itself will tell.
    if answer[0] is not None and _status(cause) != 403:
        raise answer[0]
    _seen_buckets.add(bucket)


def _listing(path, **query):
    """-> the client's iterator over what lies under a folder; .prefixes are the folders in it once it is used up."""
    bucket, name = _parse(path)
    prefix = name.rstrip("/") + "/" if name.rstrip("/") else ""
    _check_bucket(bucket, path)
    return prefix, _client().list_blobs(bucket, prefix=prefix or None, **query, **_options())


def exists(path):
    """Is there an object of this name, or one in a folder of this name?"""
    with _blob(path) as blob:
        if blob.name and not blob.name.endswith("/") and blob.exists(**_options()):
            return True
        return any(True for _ in _listing(path, max_results=1, fields="items(name)")[1])


def size(path):
    """Bytes of an object."""
    return _stat(path)[0]


def version(path):
    """-> (bytes, generation): an object that is written anew has another generation"""
    return _stat(path)


def _stat(path):
    """-> (bytes, generation)"""
    with _blob(path) as blob:
        blob.reload(**_options())
        return blob.size, blob.generation


def locations(path):
    """Where a bucket lies: its location, such as "EUROPE-WEST4" or "EU", then the regions of a dual-region bucket.

    StorageError where the right storage.buckets.get is lacking, which the right to use objects does not include.
    """
    bucket, _ = _parse(path)
    _check_bucket(bucket, path)
    with _errors(path):
        found = _client().bucket(bucket)
        found.reload(**_options(ACCESS_S))
        return [found.location, *(found.data_locations or ())]


def list_names(folder):
    """Sorted names of the objects and folders in a folder; none where there is no such folder."""
    return sorted({name for name, _ in list_entries(folder)})


def list_entries(folder):
    """Sorted (name, is it a folder?) of the objects and folders in a folder; none where there is no such folder."""
    with _errors(folder):
        prefix, listing = _listing(folder, delimiter="/", fields="items(name),prefixes,nextPageToken")
        names = {blob.name for blob in listing} | set(listing.prefixes)
    names = {name.removeprefix(prefix) for name in names} - {"", "/"}
    return sorted({(name.rstrip("/"), name.endswith("/")) for name in names})


def make_folder(folder):
    """Leaves the empty object FOLDER/ as TensorFlow and the console do: a missing right to write is told now."""
    with _blob(str(folder).rstrip("/") + "/") as blob:
        if blob.name.strip("/"):
            with contextlib.suppress(api_errors.PreconditionFailed):   # it is there already
                blob.upload_from_string(b"", if_generation_match=0, checksum=None, **_options())


def remove(path):
    """Removes one object."""
    size(path)   # FileNotFoundError. A delete that finds nothing may have had its first answer lost.
    with _blob(path) as blob, contextlib.suppress(api_errors.NotFound):
        blob.delete(**_options())


def remove_folder(folder):
    """Removes every object in a folder."""
    with _errors(folder):
        bucket = _client().bucket(_parse(folder)[0])
        names = [blob.name for blob in _listing(folder, fields="items(name),nextPageToken")[1]]

        def delete(name):
            with contextlib.suppress(api_errors.NotFound):
                bucket.blob(name).delete(**_options())

        with concurrent.futures.ThreadPoolExecutor(THREADS, "tfhf-remove") as pool:
            list(pool.map(delete, names))


def read_bytes(path):
    """A whole object, its CRC32C checked."""
    with _blob(path) as blob:
        return blob.download_as_bytes(checksum="crc32c", **_options())


def read_range(path, offset, count, generation=None):
    """Up to `count` bytes from `offset`; `generation` asks for that version of the object only."""
    if count < 1:
        return b""
    with _blob(path) as blob:
        blob = blob.bucket.blob(blob.name, generation=generation) if generation else blob
        try:
            return blob.download_as_bytes(start=offset, end=offset + count - 1, raw_download=True, checksum=None,
                                          **_options())
        except api_errors.ClientError as error:
            if error.code == 416:   # it ends before the offset
                return b""
            raise


def read_chunks(path, chunk_bytes=READ_CHUNK):
    """Gives an object in pieces, in order, four of them under way; FileNotFoundError if it is replaced meanwhile."""
    total, generation = _stat(path)
    starts, waiting = iter(range(0, total, chunk_bytes)), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(4, "tfhf-read-chunks") as pool:
        while True:
            while len(waiting) < 4 and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(read_range, path, start, min(chunk_bytes, total - start), generation))
            if not waiting:
                return
            yield waiting.popleft().result()


def upload(jobs):
    """Uploads streams in parallel: jobs are (path, function that opens a binary file, bytes).

    An object appears under its name when it is whole. Its CRC32C goes with it, and the one that the service answers is
    compared. Uploads that take longer than a few seconds show their progress on stderr.
    """
    progress = _Progress(jobs)
    with concurrent.futures.ThreadPoolExecutor(THREADS, "tfhf-upload") as pool:
        for done in [pool.submit(_upload, path, opened, total, progress) for path, opened, total in jobs]:
            done.result()


def _upload(path, opened, total, progress):
    with opened() as stream:
        crc = google_crc32c.Checksum()
        collections.deque(crc.consume(stream, 1 << 20), maxlen=0)
        expected = base64.b64encode(crc.digest()).decode("ascii")
        stream.seek(0)
        with _blob(path) as blob:
            blob.chunk_size = UPLOAD_CHUNK if total > UPLOAD_CHUNK else None
            blob.crc32c = expected
            blob.upload_from_file(_Watched(stream, path, progress), size=total, checksum=None, **_options())
        if blob.crc32c != expected:
            raise StorageError(f"{path}: the bucket holds other bytes than were sent: crc32c {blob.crc32c!r}, expected "
                               f"{expected!r}. Run it again; if it stays so, a proxy or the memory is at fault")


class _Watched:
    """A stream that tells how far it was read; the client rewinds it when it must send a piece again."""

    def __init__(self, stream, path, progress):
        self._stream, self._path, self._progress = stream, path, progress
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, count=-1):
        self._progress.show(self._path, self._stream.tell())
        return self._stream.read(count)


class _Progress:
    def __init__(self, jobs):
        self._total = sum(total for _, _, total in jobs)
        self._first, self._count = jobs[0][0] if jobs else "", len(jobs)
        self._at, self._lock = {}, threading.Lock()
        self._begin = self._last = time.monotonic()

    def show(self, path, position):
        """Notes how far one file is; prints a line for all of them now and then."""
        with self._lock:
            self._at[path] = position
            now = time.monotonic()
            if now - self._last < _PROGRESS_EVERY_S:
                return
            self._last, sent = now, sum(self._at.values())
            others = f" and {self._count - 1} more" if self._count > 1 else ""
            print(f"uploading {self._first}{others}: {sent / 1e6:.0f} of {self._total / 1e6:.0f} MB, "
                  f"{sent / 1e6 / (now - self._begin):.1f} MB/s", file=sys.stderr, flush=True)
