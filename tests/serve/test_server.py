import socket

import pytest

from encas.errors import InvalidInput
from encas.serve.server import listening


def test_asyncio_will_switch_nagle_off_for_this_socket() -> None:
    """It looks at the protocol; with 0 there, every answer would wait 40 ms for an acknowledgement."""
    with listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert listener.getsockname()[1] > 0


def test_a_port_can_be_taken_again_at_once() -> None:
    with listening("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = listener.accept()
            accepted.close()  # this end waits for stray packets now
            assert client.recv(1) == b""
    with listening(*address) as again:
        assert again.getsockname() == address


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("256.1.1.1", 0, "cannot listen on 256.1.1.1, port 0: "),
        ("203.0.113.7", 0, "cannot listen on 203.0.113.7, port 0: Cannot assign requested address"),
        ("127.0.0.1", 70000, "port 70000: it must be from 0 (a free one) to 65535"),
    ],
)
def test_an_address_that_cannot_be_had_is_told(host: str, port: int, says: str) -> None:
    with pytest.raises(InvalidInput) as error, listening(host, port):
        pass
    assert says in str(error.value)


def test_a_port_in_use_is_told() -> None:
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(InvalidInput, match=f"port {port}: Address already in use"),
            listening("127.0.0.1", port),
        ):
            pass
