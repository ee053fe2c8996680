"""JSON that is deep, wide, long or no JSON at all, on every path that reads it."""

from target import Target, refused, run

TENSOR = b'{"inputs": [{"name": "image", "shape": [1, 2, 2], "datatype": "%s", "data": %s}]}'
MANY = 11_000_000


def attempt(target: Target) -> None:
    """Send all of them; each must be refused in the protocol's form."""
    bombs = {
        "deep lists": b"[" * 1_000_000,
        "deep lists that end": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "deep data": TENSOR % (b"UINT8", b"[" * 5000 + b"1" + b"]" * 5000),
        "deep parameters": b'{"parameters": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b', "inputs": []}',
        "millions of empty lists": TENSOR % (b"UINT8", b"[" + b"[]," * MANY + b"[]]"),
        "millions of empty objects": TENSOR % (b"UINT8", b"[" + b"{}," * MANY + b"{}]"),
        "millions of numbers": TENSOR % (b"UINT8", b"[" + b"0," * MANY + b"0]"),
        "millions of keys": b"{" + b",".join(b'"%07d":0' % i for i in range(1_000_000)) + b"}",
        "a number of many digits": TENSOR % (b"UINT8", b"[" + b"9" * 100_000 + b"]"),
        "a number of many digits behind a point": TENSOR % (b"FP32", b"[0." + b"9" * 1_000_000 + b"]"),
        "a float beyond the range": TENSOR % (b"FP32", b"[1e400, 1, 1, 1]"),
        "an integer beyond the range": TENSOR % (b"UINT8", b"[18446744073709551616, 1, 1, 1]"),
        "NaN": TENSOR % (b"FP32", b"[NaN, 1, 1, 1]"),
        "infinity": TENSOR % (b"FP32", b"[Infinity, -Infinity, 1, 1]"),
        "half of a character": b'{"id": "\\ud800", "inputs": []}',
        "no UTF-8": b'{"id": "\xff\xfe", "inputs": []}',
        "UTF-16": '{"inputs": []}'.encode("utf-16"),
        "a zero byte": b'{"inputs": []}\0',
        "a string that does not end": b'{"id": "' + b"a" * 1_000_000,
        "a long unknown name": b'{"' + b"a" * 1_000_000 + b'": 1}',
        "a long name of an input": b'{"inputs": [{"name": "'
        + b"a" * 1_000_000
        + b'", "shape": [], "datatype": "x"}]}',
        "prototypes": b'{"__proto__": {}, "constructor": {}, "inputs": []}',
    }
    for what, content in bombs.items():
        answer = target.infer(content)
        refused(answer, what)
        assert len(answer.body) < 1000, f"{what}: an error of {len(answer.body)} bytes"
    for path in ("/v2/repository/index", f"/v2/repository/models/{target.model}/load"):
        for what, content in bombs.items():
            if what != "prototypes" and len(content) < 2**20:
                refused(target.ask("POST", path, content), f"{path}: {what}")


if __name__ == "__main__":
    run(attempt)
