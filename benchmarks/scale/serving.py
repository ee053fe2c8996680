"""What it costs that replicas on Ray answer instead of the server itself.

    python benchmarks/scale/serving.py BUNDLE IMAGE [--clients 1 8] [--seconds 8]

The same server, the same bundle, three ways in turns: the server alone, and with one and two replicas of one
core each. Clients ask in a closed loop over connections that they keep; they run on the same machine, so
figures compare the ways with each other and nothing else.
"""

import argparse
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

WAYS = {
    "server alone": ["--threads", "1"],
    "one replica": ["--ray", "--replicas", "1"],
    "two replicas": ["--ray", "--replicas", "2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    body = options.image.read_bytes()
    print(f"{'way':14} {'clients':>7} {'requests/s':>10} {'median ms':>10} {'p99 ms':>7} {'failed':>6}")
    for way, arguments in WAYS.items():
        with server(options.bundle, arguments) as (host, port):
            ask(host, port, body, 1, 2.0)  # until it is warm
            for clients in options.clients:
                taken_s, failed, seconds = ask(host, port, body, clients, options.seconds)
                median, p99 = np.percentile(taken_s, [50, 99]) * 1e3
                rate = len(taken_s) / seconds
                print(f"{way:14} {clients:7} {rate:10.0f} {median:10.2f} {p99:7.1f} {failed:6}", flush=True)


@contextmanager
def server(bundle: Path, arguments: list[str]) -> Iterator[tuple[str, int]]:
    command = [Path(sys.executable).with_name("encas"), "serve", bundle, "--port", "0", "--json"]
    command += ["--provider", "cpu", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        text += process.stdout.readline()
    host, _, port = json.loads(text)["address"].removeprefix("http://").rpartition(":")
    try:
        yield host, int(port)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(host: str, port: int, body: bytes, clients: int, seconds: float) -> tuple[list[float], int, float]:
    """Ask for some seconds; return what each request took, how many failed, and the seconds."""
    taken_s: list[float] = []
    failed = 0
    until_s = time.perf_counter() + seconds

    def client() -> None:
        nonlocal failed
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while (start_s := time.perf_counter()) < until_s:
            connection.request("POST", "/predict", body)
            reply = connection.getresponse()
            reply.read()
            taken_s.append(time.perf_counter() - start_s)
            failed += reply.status != 200

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken_s, failed, time.perf_counter() - start_s


if __name__ == "__main__":
    main()
