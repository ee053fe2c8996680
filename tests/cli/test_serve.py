import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner

from encas.bundle import BundleFile
from encas.cli import app
from encas.cli.serve import serve_bundles
from encas.files import read_model, sha256_of, write_model
from encas.serve.openapi import EXAMPLE_PNG

if TYPE_CHECKING:
    from tests.conftest import Served

ROOT = Path(__file__).parents[2]
ENCAS = Path(sys.executable).with_name("encas")
HEAVY = ("torch", "torchvision", "timm", "pymoo", "numba", "scipy", "sklearn", "onnx", "matplotlib")
StartServer = Callable[..., AbstractContextManager["Served"]]


def refused(*arguments: str | Path) -> str:
    """The one line that `encas serve ARGUMENTS` says when it does not start."""
    done = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command: list[str | Path] = [ENCAS, "serve", *arguments, "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def asks(url: str) -> Any:
    """Send the digit of the documents to a server, and return the label."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}
    answer = httpx.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=60)
    assert answer.status_code == 200, answer.text
    return next(o["data"] for o in answer.json()["outputs"] if o["name"] == "label")


@pytest.mark.slow
def test_it_says_one_line_and_stops_at_ctrl_c_with_code_0(bundle_path: Path) -> None:
    process = start(bundle_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.fullmatch(r"encas: serving digits at http://127\.0\.0\.1:\d+ \(docs: /docs\)\n", line)
    assert asks(line.split()[4]) == ["digit 0"]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)
    assert (process.returncode, *rest) == (0, "", "")


@pytest.mark.slow
def test_it_takes_its_options_and_stops_at_sigterm_with_code_0(bundle_path: Path) -> None:
    process = start(bundle_path, "--json", "--max-body-mb", "1", "--threads", "1")
    assert process.stdout is not None
    text = ""
    while "}" not in text:
        line = process.stdout.readline()
        assert line, "it stopped before it was ready"
        text += line
    said = json.loads(text)
    assert said["models"] == ["digits"]
    assert asks(said["address"]) == ["digit 0"]
    large = httpx.post(f"{said['address']}/v2/models/digits/infer", content=bytes(2**20 + 1))
    assert (large.status_code, list(large.json())) == (413, ["error"])
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)
    assert (process.returncode, *rest) == (0, "", "")


@pytest.mark.slow
def test_the_commands_of_its_help_work(served: "Served", tmp_path: Path) -> None:
    help_text = subprocess.run([ENCAS, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "image.png").write_bytes(base64.b64decode(EXAMPLE_PNG))
    commands = []
    for block in re.findall(r"```\n(.*?)```", serve_bundles.__doc__ or "", re.DOTALL):
        for command in block.split("\n\n"):
            assert all(line.strip() in help_text for line in command.splitlines())
            if "curl" in command:
                commands.append(command.replace("http://127.0.0.1:8000", served.url))
    answers = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        answers.append(json.loads(done.stdout))
    models, predicted, raw, in_json = answers
    assert predicted["predictions"][0]["label"] == "digit 0"
    assert models == {"models": ["digits"]}
    assert next(o["data"] for o in raw["outputs"] if o["name"] == "label") == ["digit 0"]
    assert in_json == raw


def with_member(bundle_path: Path, content: bytes) -> Path:
    """Put another network into a bundle; its digest is right, so that it is found only when it is loaded."""
    path = bundle_path / "members/hidden064.onnx"
    path.write_bytes(content)
    file = read_model(bundle_path / "bundle.json", BundleFile)
    files = {**file.files, "members/hidden064.onnx": sha256_of(path)}
    members = tuple(
        member.model_copy(update={"output": "logits"}) if member.name == "hidden064" else member
        for member in file.members
    )
    changed = file.model_copy(update={"files": files, "members": members})
    write_model(bundle_path / "bundle.json", changed.sealed())
    return path


class TestWhatItRefuses:
    def test_no_bundle(self, tmp_path: Path) -> None:
        assert "make a bundle with 'encas export" in refused(tmp_path / "none", "--port", "0")

    def test_a_changed_byte(self, bundle_path: Path) -> None:
        path = bundle_path / "members/hidden064.onnx"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert f"{path}: changed since it was exported" in refused(bundle_path, "--port", "0")

    def test_two_bundles_of_one_name(self, bundle_path: Path, tmp_path: Path) -> None:
        shutil.copytree(bundle_path, tmp_path / "again")
        said = refused(bundle_path, tmp_path / "again", "--port", "0")
        assert "models of one server need different names" in said

    @pytest.mark.slow
    def test_a_member_that_is_no_network(self, bundle_path: Path) -> None:
        path = with_member(bundle_path, b"no graph")
        assert str(path) in refused(bundle_path, "--port", "0")

    @pytest.mark.slow
    def test_a_member_that_answers_no_probabilities(self, bundle_path: Path, networks: Any) -> None:
        """No stage has to be reached for it to be found."""
        (network,) = (network for network in networks if network.name == "hidden064")
        with_member(bundle_path, network.onnx_bytes(softmax=False))
        assert "a member must end in a softmax" in refused(bundle_path, "--port", "0")

    @pytest.mark.slow
    def test_an_unknown_provider(self, bundle_path: Path) -> None:
        assert "provider 'tpu': must be cpu, cuda or tensorrt" in refused(
            bundle_path, "--port", "0", "--provider", "tpu"
        )

    def test_a_port_in_use(self, bundle_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            said = refused(bundle_path, "--port", str(port))
        assert said == (
            f"encas: cannot listen on 127.0.0.1, port {port}: Address already in use; "
            "choose others with --host and --port (port 0: a free one)\n"
        )

    def test_a_port_out_of_range_is_a_usage_error(self, bundle_path: Path) -> None:
        assert CliRunner().invoke(app, ["serve", str(bundle_path), "--port", "70000"]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-batch-size", "0"], "must be numbers from 1, as 8 or 32,8"),
        (["--max-queue-delay-ms", "1,x"], "must be numbers from 0"),
        (["--overload-status", "500"], "must be 503 or 429"),
        (["--split-stages"], "needs a cluster: add --ray"),
    ],
)
def test_options_that_cannot_be_are_a_usage_error(options: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["serve", "bundle", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert says in done.stderr


def test_without_a_bundle_one_line_says_so() -> None:
    assert refused("--port", "0") == "encas: there is no bundle to serve; name at least one\n"


def without(*modules: str) -> list[str]:
    """The command line in a process in which some modules cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); from encas.cli import app; app()"
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_it_starts_without_what_only_searching_and_training_need(
    bundle_path: Path, start_server: StartServer
) -> None:
    with start_server(bundle_path, encas=without(*HEAVY)) as server:
        assert asks(server.url) == ["digit 0"]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "extra"), [("fastapi", "serve"), ("onnxruntime", "cpu")])
def test_without_what_it_needs_it_names_the_extra(module: str, extra: str, bundle_path: Path) -> None:
    command: list[str | Path] = [*without(module), "serve", bundle_path, "--port", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{module} is not installed" in done.stderr
    assert f"pip install 'encas[{extra}]'" in done.stderr


@pytest.mark.slow
def test_it_starts_where_only_its_own_extras_are_installed(
    bundle_path: Path, tmp_path: Path, start_server: StartServer
) -> None:
    source, home = tmp_path / "source", tmp_path / "venv"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "out")
    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    venv.create(home, with_pip=True)
    python = home / "bin/python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"{source}[cpu,serve]",
    ]
    subprocess.run(install, check=True, timeout=600)
    listed = subprocess.run(
        [str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    installed = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert not installed & set(HEAVY)
    with start_server(bundle_path, encas=[home / "bin/encas"]) as server:
        assert asks(server.url) == ["digit 0"]
