"""A real Google Cloud Storage server on the loopback, behind a proxy that can be made to fail.

    TensorFlow's gs:// client   --CONNECT, TLS-->   GcsProxy   --HTTP-->   fake-gcs-server (asset "gcs-server")
    google-cloud-storage        ------HTTP------>   GcsProxy   --HTTP-->   fake-gcs-server

Nothing here stands in for a client: TensorFlow's C++ code and Google's Python code run as they do on a TPU VM. The
proxy ends the TLS itself with a throw-away authority, and drops the header `Transfer-Encoding: identity`, which
TensorFlow sends with each write and which Go's HTTP server refuses (501). `GcsServer.fault` makes it misbehave.
The proxy is a process of its own: some calls of TensorFlow wait for a bucket while they hold Python's global lock.
"""

import contextlib
import dataclasses
import datetime
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

GOOGLE_HOSTS = ("www.googleapis.com", "storage.googleapis.com", "oauth2.googleapis.com", "accounts.google.com")
_CHUNK = 1 << 16
_HOP_HEADERS = {"connection", "proxy-connection", "keep-alive", "expect", "transfer-encoding"}


@dataclasses.dataclass
class Fault:
    """What goes wrong, and for which requests.

    Attributes:
        kind: "status" (answer with `status`, the server never hears of it), "cut" (half of the answer and the
            connection is closed; a request with a body is cut in the middle of its body instead), "lost" (the server
            does what is asked, and the connection is closed before its answer), "slow" (`seconds` before each answer),
            "stall" (half of the answer, then nothing for `seconds`), "corrupt" (one bit of the request's body turned).
        match: regular expression over "METHOD path?query", unquoted; an upload has "name=OBJECT" in its query.
        share: of the matching requests, 0 to 1, drawn with `seed`.
        times: at most so many; None: without end.
        hits: how often it struck.
    """

    kind: str
    match: str = ""
    status: int = 503
    seconds: float = 0.2
    share: float = 1.0
    times: int | None = None
    seed: int = 0
    hits: int = 0

    def __post_init__(self):
        if self.kind not in ("status", "cut", "lost", "slow", "stall", "corrupt"):
            raise ValueError(f"fault {self.kind!r}: expected status, cut, lost, slow, stall or corrupt")
        self._random = random.Random(self.seed)

    def strikes(self, line):
        """Does it strike this request? Counts it if so."""
        if self.times is not None and self.hits >= self.times or not re.search(self.match, line):
            return False
        if self._random.random() >= self.share:
            return False
        self.hits += 1
        return True


class GcsServer:
    """The emulator and its proxy. A context manager; `environment` is what a process needs to talk to it.

    Args:
        binary: the file of the asset "gcs-server".
        folder: where certificates and the server's log go.
    """

    def __init__(self, binary, folder):
        self._binary, self._folder = os.fspath(binary), Path(folder)
        self._buckets = 0

    def __enter__(self):
        os.chmod(self._binary, 0o755)
        self._port = _free_port()
        self._log = open(self._folder / "gcs-server.log", "wb")
        self._process = subprocess.Popen(
            [self._binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port), "-backend", "memory",
             "-public-host", "storage.googleapis.com", "-external-url", "https://www.googleapis.com",
             "-log-level", "warn"], stdout=self._log, stderr=subprocess.STDOUT)
        self._proxy = subprocess.Popen([sys.executable, __file__, str(self._port), str(self._folder)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        try:
            _wait_for(self._port, self._process, self._folder / "gcs-server.log")
            self.port = int(self._proxy.stdout.readline())
        except BaseException:
            self.__exit__()
            raise
        self.environment = {
            "https_proxy": f"http://127.0.0.1:{self.port}",
            "CURL_CA_BUNDLE": str(self._folder / "authority.pem"),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
            "NO_GCE_CHECK": "true",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}",
        }
        return self

    def __exit__(self, *_):
        for process in (self._proxy, self._process):
            process.kill()
            process.wait()
        self._log.close()

    def new_bucket(self):
        """Makes an empty bucket with a name of its own; -> gs://NAME."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self._ask("POST", "/storage/v1/b?project=p", json.dumps({"name": name}))
        return f"gs://{name}"

    def objects(self, bucket):
        """{name: (bytes, generation)} of all in gs://BUCKET, asked from the emulator itself, past all faults."""
        answer = json.loads(self._ask("GET", f"/storage/v1/b/{bucket.removeprefix('gs://')}/o"))
        return {item["name"]: (int(item["size"]), item["generation"]) for item in answer.get("items", [])}

    @property
    def requests(self):
        """All that the proxy was asked so far: ["METHOD path?query", status answered or None]."""
        return json.loads(self._ask("GET", "/-/requests", port=self.port))

    def _ask(self, method, path, body=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self._port, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if response.status >= 300:
            raise OSError(f"{method} {path}: {response.status} {data[:200]!r}")
        return data

    @contextlib.contextmanager
    def fault(self, kind, match="", **options):
        """`with server.fault("status", status=503, share=0.3) as fault:` …; afterwards `fault.hits`. They nest."""
        fault = Fault(kind, match, **options)
        number = int(self._ask("POST", "/-/fault", json.dumps(dataclasses.asdict(fault)), self.port))
        try:
            yield fault
        finally:
            fault.hits = int(self._ask("DELETE", f"/-/fault/{number}", port=self.port))


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, context, upstream_port):
        self.context, self.upstream_port = context, upstream_port
        self.requests, self._faults, self._count, self._lock = [], {}, 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    def control(self, method, path, body):
        """What the tests ask of the proxy itself; -> the answer, bytes."""
        with self._lock:
            if path == "/-/requests":
                return json.dumps(self.requests).encode()
            if method == "POST":
                self._count += 1
                number = self._count
                self._faults[number] = Fault(**json.loads(body))
                return str(number).encode()
            return str(self._faults.pop(int(path.rpartition("/")[2])).hits).encode()

    def struck(self, line):
        """The faults that strike this request, at most one of each kind."""
        with self._lock:
            found = {}
            for fault in self._faults.values():
                if fault.kind not in found and fault.strikes(line):
                    found[fault.kind] = fault
            return found

    def handle_error(self, request, client_address):
        """A client that went away is its own affair: the tests kill some on purpose."""


class _Gone(ConnectionError):
    """This connection is over, by a fault or by the client."""


class _Connection(socketserver.BaseRequestHandler):
    """One client connection: requests one after the other, each handed on to the emulator."""

    def handle(self):
        self._socket, self._plain = self.request, True
        self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=600)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = self._socket.makefile("rb", _CHUNK)
            while self._one_request():
                pass
        except (OSError, http.client.HTTPException):
            pass   # the client left, or a fault cut it off
        finally:
            self._upstream.close()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _one_request(self):
        line = self._reader.readline(_CHUNK)
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers = http.client.parse_headers(self._reader)
        if method == "CONNECT":
            self._begin_tls(path)
            return True
        if path.startswith("/-/"):
            self._answer(200, self.server.control(method, path, self._body(headers, cut=False)))
            return True
        shown = f"{method} {urllib.parse.unquote(path)}"
        if "uploadType=multipart" in path and (name := re.search(rb'"name": *"([^"]+)"', self._reader.peek())):
            shown += f"&name={name[1].decode()}"   # small objects have their name in the body
        entry = [shown, None]
        self.server.requests.append(entry)
        faults = self.server.struck(shown)
        if "slow" in faults:
            time.sleep(faults["slow"].seconds)
        if "100-continue" in headers.get("Expect", "").lower():
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        has_body = int(headers.get("Content-Length") or 0) > 0
        body = self._body(headers, cut="cut" in faults and has_body)
        if "status" in faults:
            entry[1] = faults["status"].status
            self._refuse(faults["status"].status)
            return True
        if "corrupt" in faults:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1:]
        entry[1] = self._hand_on(method, path, headers, body, faults)
        return True

    def _begin_tls(self, authority):
        host = authority.partition(":")[0]
        if host not in GOOGLE_HOSTS:
            self._refuse(502)
            raise _Gone(f"CONNECT {authority}: not a host of Google's")
        self._socket.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._socket = self.server.context.wrap_socket(self._socket, server_side=True)
        self._reader, self._plain = self._socket.makefile("rb", _CHUNK), False

    def _body(self, headers, cut):
        """The request's body, whole, in memory."""
        if "chunked" in headers.get("Transfer-Encoding", "").lower():
            parts = []
            while size := int(self._reader.readline().split(b";")[0], 16):
                parts.append(self._reader.read(size))
                self._reader.readline()
            while self._reader.readline().strip():
                pass
            return b"".join(parts)
        length = int(headers.get("Content-Length") or 0)
        data = self._reader.read(length // 2 if cut else length)
        if cut or len(data) < length:
            raise _Gone("cut in the middle of a request's body")
        return data

    def _refuse(self, status):
        message = f"{http.client.responses[status]} (injected)"
        self._answer(status, json.dumps({"error": {"code": status, "message": message}}).encode())

    def _answer(self, status, body):
        head = (f"HTTP/1.1 {status} {http.client.responses[status]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")
        self._socket.sendall(head.encode() + body)

    def _hand_on(self, method, path, headers, body, faults):
        sent = {name: value for name, value in headers.items() if name.lower() not in _HOP_HEADERS}
        sent["Content-Length"] = str(len(body))
        self._upstream.request(method, path, body, sent)
        response = self._upstream.getresponse()
        if "lost" in faults:
            response.read()
            raise _Gone("the answer is lost")
        no_body = method == "HEAD" or response.status in (204, 304)
        data = b"" if no_body else response.read()
        kept = [(name, value) for name, value in response.getheaders()
                if name.lower() not in _HOP_HEADERS and (no_body or name.lower() != "content-length")]
        if not no_body:
            kept.append(("Content-Length", str(len(data))))
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        for name, value in kept:
            if name.lower() == "location":   # where to send the rest of an upload: here again, and not http://www.…
                url = urllib.parse.urlsplit(value)
                value = url._replace(scheme="http" if self._plain else "https", netloc=headers["Host"]).geturl()
            lines.append(f"{name}: {value}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        if "cut" in faults or "stall" in faults:
            self._socket.sendall(head + data[:len(data) // 2])
            if "stall" in faults:
                time.sleep(faults["stall"].seconds)
            raise _Gone("cut in the middle of an answer")
        self._socket.sendall(head + data)
        return response.status


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port, process, log):
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise OSError(f"the GCS server did not start: {log.read_text('utf-8', 'replace')[-500:]}")


def _make_authority(folder):
    """A throw-away authority (authority.pem in `folder`) and a TLS context with Google's names signed by it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)

    def certificate(common_name, public_key, issuer, issuer_key, *extensions):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(issuer or name).public_key(public_key)
                   .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                   .not_valid_after(now + datetime.timedelta(days=2)))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(issuer_key, hashes.SHA256())

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identity = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                           "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    root = certificate("tfhf test authority", root_key.public_key(), None, root_key,
                       (x509.BasicConstraints(ca=True, path_length=0), True), (identity, False),
                       (x509.KeyUsage(**{**usage, "key_cert_sign": True}), True))
    names = [x509.DNSName(host) for host in GOOGLE_HOSTS] + [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = certificate("storage.googleapis.com", key.public_key(), root.subject, root_key,
                       (x509.SubjectAlternativeName(names), False), (x509.BasicConstraints(False, None), True),
                       (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), False))
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(root.public_bytes(pem))
    (folder / "server.pem").write_bytes(leaf.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def _main(upstream_port, folder):
    """Serves until its standard input closes, which it does when the tests end, however they end."""
    proxy = _Proxy(_make_authority(Path(folder)), int(upstream_port))
    print(proxy.server_address[1], flush=True)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _main(*sys.argv[1:])
