"""Replicas on Ray Serve: the answers of one server, also while one of two replicas is killed."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from encas.bundle import Bundle

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'encas[ray]'")
serve: Any = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'encas[ray]'")
pillow = pytest.importorskip("PIL.Image")


pytestmark = pytest.mark.slow

ENCAS = Path(sys.executable).with_name("encas")
PATHS = ("/predict", "/v2/models/digits/infer")


@pytest.fixture(scope="module")
def ray_address(ray_token: str) -> Iterator[tuple[str, int]]:
    """A cluster of this machine, and where Ray Serve listens."""
    assert ray_token
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = int(opened.getsockname()[1])
    context = ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
        yield context.address_info["address"], port
        serve.shutdown()
    finally:
        ray.shutdown()


def replica_processes() -> list[int]:
    token = f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            ours = token in (entry / "environ").read_bytes().split(b"\0")
            title = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and title.startswith(b"ray::ServeReplica:encas-digits-0:cascade-digits-1"):
            found.append(int(entry.name))
    return found


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def png(pixels: NDArray[np.uint8]) -> bytes:
    import io

    file = io.BytesIO()
    pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(url: str, body: bytes) -> tuple[int, Any]:
    """Post an image, and return the status and the answer; connections are not kept."""
    request = urllib.request.Request(url, body, {"Inference-Header-Content-Length": "0"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_no_request_fails_when_one_of_two_replicas_is_killed(
    ray_address: tuple[str, int],
    bundle_path: Path,
    served: Any,
    start_server: Callable[..., AbstractContextManager[Any]],
    digits: Any,
) -> None:
    images = [png(pixels) for pixels in digits.images[:40]]
    expected = [ask(f"{served.url}/predict", image) for image in images]
    options = ["--ray", ray_address[0], "--replicas", "2", "--provider", "cpu"]
    with start_server(bundle_path, *options, complaints=True) as server:  # of the lost replica
        for path in PATHS:
            assert ask(f"{server.url}{path}", images[0]) == ask(f"{served.url}{path}", images[0])
        assert ask(f"{server.url}/predict", b"no image") == ask(f"{served.url}/predict", b"no image")
        first = replica_processes()
        assert len(first) == 2
        found: list[tuple[int, int, Any]] = []
        stop = threading.Event()

        def load(start: int) -> None:
            row = start
            while not stop.is_set():
                found.append((row, *ask(f"{server.url}/predict", images[row])))
                row = (row + 1) % len(images)

        threads = [threading.Thread(target=load, args=(5 * start,)) for start in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        before = len(found)
        os.kill(first[0], signal.SIGKILL)
        deadline_s = time.monotonic() + 40
        while len(found) < before + 400 and time.monotonic() < deadline_s:
            time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert len(found) >= before + 400
        wrong = [one for one in found if one[1:] != expected[one[0]]]
        assert wrong == []
        assert first[0] not in replica_processes() and first[1] in replica_processes()
    assert replica_processes() == [], "they go with the server"


def test_what_serve_deploy_runs_gives_the_same_answers(
    ray_address: tuple[str, int], bundle_path: Path, served: Any, digits: Any
) -> None:
    from encas.serve.ray_app import Replicas, Told, app

    told = Told(bundles=(bundle_path,), replicas=Replicas(least=1, most=2), provider="cpu")
    serve.run(app(told), name="whole", logging_config={"log_level": "ERROR"})
    url, image = f"http://127.0.0.1:{ray_address[1]}", png(digits.images[3])
    for path in PATHS:
        assert ask(f"{url}{path}", image) == ask(f"{served.url}{path}", image)
    assert ask(f"{url}/predict", b"no image") == ask(f"{served.url}/predict", b"no image")
    with (
        urllib.request.urlopen(f"{url}/v2/models/digits") as reply,
        urllib.request.urlopen(f"{served.url}/v2/models/digits") as other,
    ):
        assert json.loads(reply.read()) == json.loads(other.read())
    serve.delete("whole")


def test_members_in_processes_of_their_own_give_the_same_answers_also_when_one_is_killed(
    ray_address: tuple[str, int],
    bundle_path: Path,
    served: Any,
    start_server: Callable[..., AbstractContextManager[Any]],
    digits: Any,
) -> None:
    images = [png(pixels) for pixels in digits.images[:60]]
    expected = [ask(f"{served.url}/predict", image) for image in images]
    assert len({answer["predictions"][0]["exit_stage"] for _, answer in expected}) > 1
    options = ["--ray", ray_address[0], "--split-stages", "--provider", "cpu"]
    with start_server(bundle_path, *options) as server:
        assert [ask(f"{server.url}/predict", image) for image in images] == expected
        processes = replica_processes()
        names = [member.name for member in Bundle.open(bundle_path).stage_members]
        stages = [pid for pid in processes if any(name in title_of(pid) for name in names)]
        assert len(stages) == len(names) and len(processes) == len(names) + 1
        os.kill(stages[0], signal.SIGKILL)
        assert [ask(f"{server.url}/predict", image) for image in images] == expected
        assert stages[0] not in replica_processes()
    assert replica_processes() == []


def test_more_replicas_than_there_is_room_for_are_refused(
    ray_address: tuple[str, int], bundle_path: Path
) -> None:
    command: list[str | Path] = [
        ENCAS,
        "serve",
        bundle_path,
        "--ray",
        ray_address[0],
        "--replicas",
        "5",
        "--port",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "room for 4 replicas of 1 cores; 5 are wanted; add machines" in done.stderr


def test_the_file_that_the_docs_show_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (application,) = yaml.safe_load(text)["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    told = importlib.import_module(module).Told.model_validate(application["args"])
    assert (told.replicas.least, told.replicas.most, told.doors) == (2, 20, 2)
    assert told.replicas.options["autoscaling_config"]["max_replicas"] == 20
