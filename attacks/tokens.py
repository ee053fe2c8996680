"""Ways around the token, of a server that was started with one."""

from target import RAW, Target, png, run


def attempt(target: Target) -> None:
    """Ask without it, with others, and by paths that look open."""
    assert target.token, "name the token of the server with --token"
    token = target.token
    bad = (
        *(None, "", "Bearer", "Bearer ", f"Basic {token}", f"Token {token}", token, f"Bearer {token[:-1]}"),
        *(
            f"Bearer {token}x",
            f"Bearer {token.swapcase()}",
            f"Bearer {token},x",
            f"Bearer x {token}",
            "Bearer " + "a" * 50_000,
        ),
        *("Bearer null", "Bearer undefined", f'Bearer "{token}"', f"Bearer\0{token}", "Bearer \xff\xfe"),
    )
    paths = (
        *(
            ("GET", "/v2/models"),
            ("GET", "/metrics"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
            ("GET", "/v2"),
        ),
        *(
            ("POST", target.infer_path),
            ("POST", "/predict"),
            ("POST", "/v2/repository/index"),
            ("GET", "/nothing"),
        ),
        *(
            ("HEAD", "/v2/models"),
            ("OPTIONS", "/v2/models"),
            ("GET", "//v2/models"),
            ("GET", "/v2/health/../models"),
        ),
        *(("GET", "/v2/health/live/../../models"), ("GET", "/v2/health/live%2f..%2f..%2fmodels")),
        *(
            ("GET", "/v2/models?/v2/health/live"),
            ("GET", "/v2/models#/v2/health/live"),
            ("GET", "/V2/HEALTH/LIVE"),
        ),
        *(("GET", "/v2/models;/v2/health/live"), ("GET", "/v2/health/live/"), ("GET", "http://x/v2/models")),
    )
    for method, path in paths:
        for credentials in bad:
            header = "" if credentials is None else f"Authorization: {credentials}\r\n"
            said = ask(target, f"{method} {path}", header)
            assert said.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")) or said == b"", (
                f"{method} {path} with {str(credentials)[:80]}: {said[:200]!r}"
            )
    good = f"Authorization: Bearer {token}\r\n"
    assert ask(target, "GET /v2/models", good).startswith(b"HTTP/1.1 200 ")
    assert ask(target, "GET /v2/models", good + "Authorization: Bearer x\r\n").startswith(b"HTTP/1.1 401 ")
    assert ask(target, "GET /v2/health/live", "").startswith(b"HTTP/1.1 200 ")
    # Nothing of a body is needed to refuse it.
    said = ask(target, f"POST {target.infer_path}", "Content-Length: 60000000\r\n")
    assert said.startswith(b"HTTP/1.1 401 "), said[:100]
    assert target.infer(png(), RAW).status == 200


def ask(target: Target, line: str, headers: str) -> bytes:
    """Ask in bytes, without what opens the server."""
    return target.send_raw(
        f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode("latin-1")
    )


if __name__ == "__main__":
    run(attempt)
