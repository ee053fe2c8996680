"""Names and versions of models that look like paths, and paths that look like others."""

from urllib.parse import quote

from target import Target, refused, run

NAMES = (
    *(
        "..",
        ".",
        "../../etc/passwd",
        "..\\..\\windows",
        "/etc/passwd",
        "....//....//etc/passwd",
        "~root",
        "$HOME",
    ),
    *(
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%2f",
        "..%c0%af",
        "..;/",
        "a\0b",
        "a\nb",
        "a\r\nX: y",
        "{}",
        "{0}",
        "%s%n",
    ),
    *(
        "'; drop table models; --",
        "<script>alert(1)</script>",
        "\N{CAT}",
        "\N{RIGHT-TO-LEFT OVERRIDE}a",
        "a" * 20_000,
    ),
    *("*", "?", "[a-z]", "file:///etc/passwd", "http://127.0.0.1/", "con", "nul.onnx"),
)


def attempt(target: Target) -> None:
    """Ask for each of them everywhere; what is found must be nothing."""
    for name in NAMES:
        for safe in ("", "/", "/%"):
            written = quote(name, safe=safe)
            for method, path in (
                ("GET", f"/v2/models/{written}"),
                ("GET", f"/v2/models/{written}/ready"),
                ("POST", f"/v2/models/{written}/infer"),
                ("GET", f"/v2/models/{target.model}/versions/{written}"),
                ("POST", f"/v2/models/{target.model}/versions/{written}/infer"),
                ("GET", f"/v2/models/{written}/stats"),
                ("POST", f"/v2/repository/models/{written}/load"),
                ("POST", f"/v2/repository/models/{written}/unload"),
                ("POST", f"/predict?model={written}"),
                ("GET", f"/{written}"),
            ):
                said = target.send_raw(
                    f"{target.head(path, method)}Connection: close\r\nContent-Length: 0\r\n\r\n".encode(), 10
                )
                assert said.startswith(b"HTTP/1.1 4"), f"{method} {path[:100]}: {said[:200]!r}"
                assert b"root:" not in said and b"\nX: y" not in said, f"{path[:100]}: {said[:300]!r}"
    body = b'{"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}'
    refused(target.ask("POST", f"/v2/repository/models/{target.model}/load", body), "a model in the request")
    answer = target.ask("GET", "/v2/models", headers={"x-request-id": "a" * 1000, "Host": "evil.example"})
    assert answer.status == 200 and b"evil" not in answer.body


if __name__ == "__main__":
    run(attempt)
