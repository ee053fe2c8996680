"""Pools in an object store: a server that speaks S3, and the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ENCAS = Path(sys.executable).with_name("encas")
FRONT = ["--evaluations", "300", "--algorithm", "random"]


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """What the environment must say to reach the server."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    told = {
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    assert host
    client = boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id="none",
        aws_secret_access_key="none",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    yield told
    running.stop()


def run(told: dict[str, str], cache: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **told, "ENCAS_CACHE": str(cache)}
    return subprocess.run([ENCAS, *words], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_pool_in_s3_is_recorded_searched_and_read_by_others(
    s3: dict[str, str], digits_files: Path, tmp_path: Path
) -> None:
    data: list[str | Path] = [
        "--data",
        digits_files / "digits.npz",
        "--preprocess",
        digits_files / "preprocess.yml",
    ]
    members = [
        ["--member", f"onnx:{digits_files / 'networks' / name}.onnx"] for name in ("hidden016", "hidden064")
    ]
    url, first, second = "s3://bucket/team/pool", tmp_path / "first", tmp_path / "second"
    made = run(s3, first, "pool", "record", url, *data, *members[0], "--rows", ":100")
    assert made.returncode == 0, made.stderr
    assert f"{url}: 1 members" in made.stdout and str(first) not in made.stdout + made.stderr
    again = run(
        s3, second, "pool", "record", url, *data, *members[0], *members[1], "--rows", ":100", "--json"
    )
    assert again.returncode == 0, again.stderr
    assert [one["name"] for one in json.loads(again.stdout)["members"]] == ["hidden016", "hidden064"]
    found = run(s3, first, "search", "--pool", url, "--out", "s3://bucket/team/front", *FRONT)
    assert found.returncode == 0, found.stderr
    picked = run(
        s3, second, "pick", "s3://bucket/team/front", "--min-accuracy", "0.1", "-o", tmp_path / "c.json"
    )
    assert picked.returncode == 0, picked.stderr
    checked = run(s3, tmp_path / "third", "pool", "check", url)
    assert checked.returncode == 0 and "2 members, nothing wrong" in checked.stdout


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(s3: dict[str, str], pool_path: Path, tmp_path: Path) -> None:
    url = "s3://nobody/pool"
    done = run(s3, tmp_path / "cache", "pool", "merge", url, pool_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"encas: {url}: ") and done.stderr.count("\n") == 1
