"""Under load: no answer lost or mixed up, refusals at once; what is told of the queue."""

import concurrent.futures
import time

from tests.server.running import running
from tfhf.client import Client, ClientError


def test_twenty_clients_get_their_own_answers(server):
    def one(number):
        with Client(server.grpc if number % 2 else server.rest, "echo") as client:
            for turn in range(15):
                texts = [f"{number}-{turn}-{place}" for place in range(1 + turn % 3)]
                found = client.predict({"text": texts})
                assert [text.decode() for text in found["echo"].tolist()] == [f"{text}!" for text in texts]
        return 15

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(one, range(20))) == 300


def test_overload_is_refused_at_once_and_counted(models):
    with running([models], max_waiting=4, max_batch=1) as server:
        refused, begin = [], time.monotonic()

        def one(_):
            with Client(server.rest, "echo", deadline_s=0.01) as client:   # no second try
                asked = time.monotonic()
                try:
                    client.predict({"text": ["wait"]})
                except ClientError as error:
                    refused.append((error.code, time.monotonic() - asked))

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            list(pool.map(one, range(24)))
        assert refused and time.monotonic() - begin < 30
        assert {code for code, _ in refused} <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
