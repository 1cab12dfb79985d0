"""`tfhf serve` against the same torch model behind FastAPI: the same weights, batching, clients, 2 threads, in one run.

    python -m benchmarks.serving                 both
    python -m benchmarks.serving whisper         tiny.en on the Asterisk prompts
    python -m benchmarks.serving images          ResNet-50 on JPEGs of 224 pixels and more

Each is a process of its own; eight clients, and then one, ask them by turns over REST, one clip or image a request.
Prints requests a second and latencies of both, and the ratio ours / theirs of the requests a second, of which the
median round counts: >= 1.0. On a machine with other work torch's threads wait for each other; there the seconds of a
core that each server took for a request tell more, theirs / ours.
"""

from benchmarks.side_by_side import THREADS  # first: it sets the threads

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tfhf.assets import fetch
from tfhf.client import Client

ROUNDS, CLIENTS = 3, 8
REQUESTS = {CLIENTS: 24, 1: 6}   # of a round
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")


def export_whisper(folder):
    """FOLDER/export for tfhf, FOLDER/torch for transformers."""
    from pipelines.whisper import TASK
    from tfhf.export import export

    task = TASK(TASK.Config(pretrained=str(fetch("whisper-tiny.en"))))
    model = task.build_model()
    export(task, model, folder / "export")
    model.save_pretrained(folder / "torch")
    shutil.copy(fetch("whisper-tiny.en") / "tokenizer.json", folder / "torch" / "tokenizer.json")


def export_images(folder):
    """The same, of random weights."""
    from pipelines.image_classification import TASK
    from tfhf.export import export

    task = TASK(TASK.Config("resnet50"))
    model = task.build_model()
    export(task, model, folder / "export")
    model.save_pretrained(folder / "torch", names="transformers")


def clips():
    """The 50 prompts of the test split."""
    from tfrecords.asterisk import Asterisk

    return [Path(item["audio"]).read_bytes() for item in Asterisk(fetch("asterisk-prompts")).examples("test")]


def pictures():
    """60 JPEGs, parts of photographs, of 260 to 400 pixels a side."""
    from PIL import Image

    random, found = np.random.default_rng(0), []
    for number in range(60):
        image = Image.open(fetch("scikit-image") / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]).convert("RGB")
        wide, high = (int(random.integers(260, min(400, side))) for side in image.size)
        left, top = (int(random.integers(0, side - part + 1)) for side, part in zip(image.size, (wide, high)))
        file = io.BytesIO()
        image.crop((left, top, left + wide, top + high)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


# Name -> (the model's name, what writes it, its requests)
KINDS = {"whisper": ("whisper", export_whisper, clips), "images": ("image_classification", export_images, pictures)}


@contextlib.contextmanager
def started(command, address, name):
    """A server process; the context holds a function of a number of clients and the requests to their answers, the
    requests a second, the seconds of a core that the server took for each, and the latencies."""
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)

    def core_seconds():
        ticks = Path(f"/proc/{process.pid}/stat").read_text("ascii").rsplit(")")[-1].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    def ask_all(clients, requests):
        took, answers, places = [None] * len(requests), [None] * len(requests), iter(range(len(requests)))

        def one(client):
            for place in places:
                begin = time.perf_counter()
                answers[place] = client.predict([requests[place]])
                took[place] = time.perf_counter() - begin

        with contextlib.ExitStack() as stack:
            each = [stack.enter_context(Client(address, name, deadline_s=600)) for _ in range(clients)]
            begin, before = time.perf_counter(), core_seconds()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                list(pool.map(one, each))
            rate = len(requests) / (time.perf_counter() - begin)
            return answers, rate, (core_seconds() - before) / len(requests), took

    try:
        yield ask_all
    finally:
        process.terminate()
        process.wait()


def free_port():
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def compare(kind):
    """Both servers of one kind by turns."""
    name, write, read = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(Path(folder),))
        writer.start()
        writer.join()
        requests, ports = read(), [free_port(), free_port()]
        commands = (["pipelines", "serve", f"{folder}/export", "--rest-port", str(ports[0]), "--grpc-port", "0",
                 "--deadline-s", "600"],
                    ["benchmarks.torch_server", kind, f"{folder}/torch", str(ports[1])])
        ours, theirs = (stack.enter_context(started(command, f"http://127.0.0.1:{port}", name))
                        for command, port in zip(commands, ports))
        key = "text" if kind == "whisper" else "label"
        for clients, count in REQUESTS.items():
            rounds = [[requests[(turn * count + place) % len(requests)] for place in range(count)]
                      for turn in range(ROUNDS)]
            for side in (ours, theirs):   # warm, and up: a client waits for a server that starts
                side(clients, rounds[0][:clients])
            pairs = [(ours(clients, each), theirs(clients, each)) for each in rounds]
            same = sum(np.array_equal(*(answer.get(key, answer.get("outputs")) for answer in both))
                       for mine, other in pairs for both in zip(mine[0], other[0]))
            for side, title in enumerate(("ours", "torch")):
                middle, last = np.percentile([took for pair in pairs for took in pair[side][3]], [50, 99])
                rate, core = (statistics.median(pair[side][part] for pair in pairs) for part in (1, 2))
                print(f"{kind}, {clients} clients, {title:<5} {rate:7.2f} requests/s   p50 {1e3 * middle:7.1f} ms   "
                      f"p99 {1e3 * last:7.1f} ms   {core:.3f} s of a core each")
            ratios = [statistics.median(pair) for pair in zip(*(
                (mine[1] / other[1], other[2] / mine[2]) for mine, other in pairs))]
            print(f"{kind}, {clients} clients: ratio {ratios[0]:.3g} by requests/s, {ratios[1]:.3g} by seconds of a "
                  f"core; the same answer to {same} of {ROUNDS * count}", flush=True)


def main(kinds):
    """Runs the comparisons."""
    print(f"REST, one file a request, batches of at most 8 that wait for 5 ms, {THREADS} threads, {ROUNDS} rounds")
    for kind in kinds or KINDS:
        compare(kind)


if __name__ == "__main__":
    main(sys.argv[1:])
