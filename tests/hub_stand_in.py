"""A stand-in of the Hugging Face Hub's HTTP API: makes repositories and takes commits of files; refuses "taken/...".

    with Hub() as hub: hub.address; hub.files: {"user/name": {path: bytes}}
"""

import base64
import http.server
import json
import threading


class Hub:
    """A context; the server runs in a thread, on the loopback."""

    def __init__(self):
        self.files, self.private = {}, {}
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                parts = self.path.split("?")[0].strip("/").split("/")
                if self.headers.get("authorization") != "Bearer hf_secret":
                    self.answer(401, {"error": "who are you?"})
                elif parts == ["api", "repos", "create"]:
                    asked = json.loads(body)
                    name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
                    if name.startswith("taken/"):
                        self.answer(403, {"error": "You don't have the rights to create a model under taken"})
                        return
                    hub.files.setdefault(name, {})
                    hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
                    self.answer(200, {"url": f"{hub.address}/{name}", "name": name})
                elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
                    self.answer(200, {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                                                for each in json.loads(body)["files"]]})
                elif parts[:2] == ["api", "models"] and parts[4] == "commit":
                    name = "/".join(parts[2:4])
                    for line in body.decode("utf-8").splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            hub.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    self.answer(200, {"commitUrl": f"{hub.address}/{name}/commit/1", "commitOid": "1",
                                      "success": True})
                else:
                    self.answer(200, {})   # such as the check of a card's front matter

            def do_GET(self):
                name = "/".join(self.path.strip("/").split("/")[2:4])
                self.answer(*((200, {"id": name, "sha": "0", "siblings": []}) if name in hub.files
                              else (404, {"error": "Repository not found"})))

            def answer(self, status, content):
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.send_header("content-type", "application/json")
                if status >= 400:
                    self.send_header("x-error-message", content["error"])
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
