"""Twenty clients at once get their own answers; test_load.py asks for longer."""

import concurrent.futures

from tfhf.client import Client


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
