"""Tokens and certificates: what opens a server, and what does not."""

import ssl
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from encas.errors import InvalidInput
from encas.serve.access import Certificate, Tokens
from encas.serve.grpc_messages import SERVICE, message

if TYPE_CHECKING:
    from tests.conftest import Served

TOKEN, OTHER = "0123456789abcdef", "fedcba9876543210"


class TestTokens:
    def test_without_any_everybody_may_ask(self) -> None:
        assert Tokens().allow(None)

    @pytest.mark.parametrize(
        ("sent", "opens"),
        [
            (f"Bearer {TOKEN}", True),
            (f"bearer {TOKEN}", True),
            (f"Bearer {OTHER}", True),
            (f"Bearer {TOKEN} ", True),
            (f"Bearer {TOKEN[:-1]}", False),
            (f"Bearer {TOKEN}0", False),
            (f"Basic {TOKEN}", False),
            (TOKEN, False),
            ("Bearer \N{CAT}", False),
            ("Bearer ", False),
            ("", False),
            (None, False),
        ],
    )
    def test_only_a_whole_token_opens(self, sent: str | None, opens: bool) -> None:
        assert Tokens.of([TOKEN, OTHER], "here").allow(sent) is opens

    def test_a_file_holds_one_on_each_line_and_the_environment_adds_some(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text(f"# of the first client\n{TOKEN}\n\n")
        tokens = Tokens.read(path, {"ENCAS_TOKEN": f"{OTHER}, {OTHER}2"})
        assert [tokens.allow(f"Bearer {token}") for token in (TOKEN, OTHER, OTHER + "2")] == [True] * 3
        assert TOKEN not in repr(tokens)
        assert Tokens.read(None, {}) == Tokens()

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "holds no token"),
            ("# none\n", "holds no token"),
            ("short\n", "at least 16"),
            ("a b " * 9, "spaces"),
        ],
    )
    def test_a_file_that_would_open_the_server_by_mistake_is_refused(
        self, content: str, says: str, tmp_path: Path
    ) -> None:
        (tmp_path / "tokens").write_text(content)
        with pytest.raises(InvalidInput, match=says):
            Tokens.read(tmp_path / "tokens", {})

    def test_no_file_and_an_empty_variable_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no file of tokens"):
            Tokens.read(tmp_path / "nothing", {})
        with pytest.raises(InvalidInput, match="ENCAS_TOKEN: a token of 0 characters"):
            Tokens.read(None, {"ENCAS_TOKEN": ""})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    found = Certificate(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", found.key, "-out", found.chain, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return found


def test_files_that_are_no_certificate_are_told(certificate: Certificate, tmp_path: Path) -> None:
    certificate.check()
    (tmp_path / "text").write_text("text")
    for chain, key in (
        (tmp_path / "text", certificate.key),
        (certificate.chain, tmp_path / "text"),
        (certificate.chain, tmp_path / "nothing"),
    ):
        with pytest.raises(InvalidInput, match="no certificate and its key"):
            Certificate(chain, key).check()


@pytest.mark.slow
def test_both_protocols_are_served_over_tls_to_those_with_a_token(
    certificate: Certificate,
    bundle_path: Path,
    tmp_path: Path,
    start_server: "Callable[..., AbstractContextManager[Served]]",
) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    options = (
        "--tls-cert",
        certificate.chain,
        "--tls-key",
        certificate.key,
        "--token-file",
        tmp_path / "tokens",
    )
    with start_server(bundle_path, "--provider", "cpu", "--grpc-port", "0", *options) as server:
        assert server.url.startswith("https://") and server.grpc is not None
        trust = ssl.create_default_context(cafile=str(certificate.chain))
        with httpx.Client(base_url=server.url, verify=trust) as client:
            assert client.get("/v2/health/ready").status_code == 200
            answer = client.get("/v2/models")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert list(answer.json()) == ["error"]
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            assert client.get("/v2/models").json() == {"models": ["digits"]}
            assert 'reason="unauthorized"' in client.get("/metrics").text
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/v2/health/ready")  # of whom it does not know
        with pytest.raises(httpx.HTTPError):
            httpx.get(server.url.replace("https", "http") + "/v2/health/ready")
        credentials = grpc.ssl_channel_credentials(certificate.chain.read_bytes())
        with grpc.secure_channel(server.grpc, credentials) as channel:
            live: Any = channel.unary_unary(
                f"/{SERVICE}/ServerLive", response_deserializer=message("ServerLiveResponse").FromString
            )
            assert live(b"", metadata=[("authorization", f"Bearer {TOKEN}")]).live
            with pytest.raises(grpc.RpcError) as error:
                live(b"")
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            health: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(b"") == b"\x08\x01"  # serving
