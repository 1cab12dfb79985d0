"""`tfhf serve` as a process: it tells its addresses, finishes what it has on SIGTERM, and says what is wrong."""

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tfhf.client import Client
from tfhf.server.command import main, parser

ROOT = Path(__file__).resolve().parents[2]


def test_sigterm_finishes_what_it_has(models):
    process = subprocess.Popen([sys.executable, "-m", "pipelines", "serve", models, "--rest-port", "0", "--grpc-port",
                                "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[0] == "model echo, version 10: raw, serving_default, words\n" and "TF Serving" in lines[3]
        address = re.search(r"http://\S+?(?=/v1)", lines[2])[0]
        answers = []

        def ask():
            with Client(address, "echo") as client:
                answers.append(client.predict({"text": ["wait"]})["length"].tolist())

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and answers == [[4]], err
    assert "Traceback" not in err


def test_what_cannot_be_served_is_told(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no SavedModel")


def test_loopback_is_the_default():
    assert parser().parse_args(["x"]).host == "127.0.0.1"
