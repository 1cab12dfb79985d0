"""The peer of benchmarks/serving.py: a torch model behind FastAPI, batched by the same rule as `tfhf serve`.

    python -m benchmarks.torch_server whisper|images FOLDER PORT

It answers POST /v1/models/NAME:predict with {"instances": [{"b64": ...}, ...]} as TF Serving does, so that the same
clients ask both. FOLDER holds what transformers loads (and Whisper's tokenizer.json).
"""

from benchmarks.side_by_side import THREADS  # first: it sets the threads

import asyncio
import base64
import concurrent.futures
import io
import sys
from pathlib import Path

import fastapi
import numpy as np
import torch
import transformers
import uvicorn

MAX_BATCH, WAIT_S, NEW_TOKENS = 8, 0.005, 128
MEAN, STD = (np.array(each, np.float32) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SIDE, FRACTION = 224, 0.875


class Whisper:
    """Bytes of WAV files -> texts: greedy, float32."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        self.model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        self.extract = transformers.WhisperFeatureExtractor()
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

    def __call__(self, files):
        import soundfile
        import soxr

        clips = []
        for data in files:
            samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
            clips.append(soxr.resample(samples.mean(axis=1), rate, 16000))
        features = self.extract(clips, sampling_rate=16000, return_tensors="pt").input_features
        ids = self.model.generate(features, max_new_tokens=NEW_TOKENS).tolist()
        return [{"text": self.tokenizer.decode(row).strip()} for row in ids]


class Images:
    """Bytes of JPEG or PNG files -> label and probabilities, of the square in the middle, 224 x 224."""

    def __init__(self, folder):
        model = transformers.ResNetForImageClassification.from_pretrained(folder)
        self.model = model.eval().to(memory_format=torch.channels_last)   # quicker than torch's default here

    def __call__(self, files):
        pixels = torch.from_numpy(np.stack([self._pixels(data) for data in files]).transpose(0, 3, 1, 2))
        scores = torch.softmax(self.model(pixels).logits, -1).numpy()   # transposed: channels last in memory
        return [{"label": str(row.argmax()), "probabilities": row.tolist()} for row in scores]

    @staticmethod
    def _pixels(data):
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        side = round(min(image.size) * FRACTION)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return (np.asarray(image, np.float32) / 255 - MEAN) / STD


def make_app(model) -> fastapi.FastAPI:
    """The application: what comes within WAIT_S of the first shares its batch of MAX_BATCH at most, one at a time."""
    queue, thread = asyncio.Queue(), concurrent.futures.ThreadPoolExecutor(1)

    def run(files):
        with torch.inference_mode():
            return model(files)

    async def work():
        loop = asyncio.get_running_loop()
        while True:
            batch = [await queue.get()]
            end = loop.time() + WAIT_S
            while len(batch) < MAX_BATCH:
                try:
                    batch.append(await asyncio.wait_for(queue.get(), max(0, end - loop.time())))
                except asyncio.TimeoutError:
                    break
            for (_, answer), found in zip(batch, await loop.run_in_executor(thread, run, [data for data, _ in batch])):
                answer.set_result(found)

    async def lifespan(app):
        task = asyncio.create_task(work())
        yield
        task.cancel()

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.post("/v1/models/{name}:predict")
    async def predict(name: str, request: fastapi.Request):
        answers = []
        for each in (await request.json())["inputs"]:
            answers.append(asyncio.get_running_loop().create_future())
            queue.put_nowait((base64.b64decode(each["b64"]), answers[-1]))
        found = await asyncio.gather(*answers)
        columns = {key: [row[key] for row in found] for key in found[0]}
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}

    return app


def main(kind, folder, port):
    """Serves until it is ended."""
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    model = {"whisper": Whisper, "images": Images}[kind](folder)
    uvicorn.run(make_app(model), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
