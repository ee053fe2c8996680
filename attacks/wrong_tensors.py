"""Tensors whose shape, type or size is not what is said of them."""

import json
from struct import pack

from target import RAW, Target, refused, run


def attempt(target: Target) -> None:
    """Send all of them; each must be refused in the protocol's form."""

    def tensor(**fields: object) -> dict[str, object]:
        return {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 1, 2, 3], **fields}

    wrong: list[dict[str, object]] = [
        *(
            tensor(datatype=kind)
            for kind in ("FP64", "FP16", "INT8", "BOOL", "uint8", "", "A" * 100_000, "BYTES")
        ),
        *(
            tensor(shape=shape)
            for shape in ([-1, 2, 2], [0, 2, 2], [2**31, 2, 2], [2**62, 4, 4], [], [4], [1] * 9)
        ),
        *(
            tensor(shape=shape)
            for shape in ([1.5, 2, 2], ["1", 2, 2], [None], "4", {"0": 1}, [True, 2, 2], [10**30])
        ),
        *(tensor(shape=[2**31 - 1] * n) for n in (1, 2, 4, 8)),
        *(
            tensor(data=data)
            for data in (None, "abcd", {}, [0, 1, 2], [0, 1, 2, 256], [0, 1, 2, -1], [0, 1, 2, 0.5])
        ),
        *(
            tensor(data=data)
            for data in ([[0, 1], [2]], [[0, 1], 2, 3], [[[[0]]]], [None] * 4, ["0"] * 4, [True] * 4)
        ),
        *(tensor(datatype="FP32", data=data) for data in ([1e39] * 4, [0, 1, 2, 3])),
        *(
            tensor(datatype="BYTES", shape=[1], data=[data])
            for data in ("", "a", "####", 7, "YQ==", "=" * 100_000)
        ),
        tensor(datatype="BYTES", shape=[100_000], data=["YQ=="] * 100_000),
        tensor(datatype="UINT8", shape=[1, 1, 200_000], data=[0] * 200_000),
        tensor(name="images"),
        tensor(name=""),
        tensor(parameters={"shared_memory_region": "a", "shared_memory_byte_size": 2**62}),
        tensor(parameters={"binary_data_size": 2**62}),
        tensor(parameters={"binary_data_size": -1}),
        tensor(extra=1),
    ]
    for found in wrong:
        refused(target.infer_json({"inputs": [found]}), json.dumps(found)[:200])
    for inputs in ([], [tensor(), tensor()], [tensor()] * 10_000, None, 7, {}, [[]], [None]):
        refused(target.infer_json({"inputs": inputs}), f"inputs {str(inputs)[:100]}")
    for outputs in ([{"name": "logits"}], [{"name": "class"}] * 2, [{"name": "label"}] * 10_000, 7, [7], {}):
        refused(
            target.infer_json({"inputs": [tensor()], "outputs": outputs}), f"outputs {str(outputs)[:100]}"
        )
    for count in (-1, 2**70, "1", 0.5, True, []):
        wanted = [{"name": "probs", "parameters": {"classification": count}}]
        if count != 2**70:  # as many as there are
            refused(target.infer_json({"inputs": [tensor()], "outputs": wanted}), f"classification {count!r}")
    raw(target)


def raw(target: Target) -> None:
    """Tell wrong lengths of what lies behind the JSON."""
    head = {"name": "image", "shape": [1], "datatype": "BYTES"}
    for size in (0, 3, 4, 2**31, 2**32 - 1):
        content = pack("<I", size) + b"abc"
        text = json.dumps({"inputs": [{**head, "parameters": {"binary_data_size": len(content)}}]}).encode()
        sent = {"Inference-Header-Content-Length": str(len(text))}
        refused(target.infer(text + content, sent), f"an element of {size} bytes")
    for length in ("-1", "+1", "0x1", "1e3", " ", "", "9" * 4000, "²", "1, 2", str(2**64)):
        sent = {"Inference-Header-Content-Length": length}
        refused(
            target.infer(b'{"inputs": []}', {k: v.encode().decode("latin-1") for k, v in sent.items()}),
            length,
        )
    nan = pack("<4f", float("nan"), float("inf"), 1, 1)
    tensor = {"name": "image", "shape": [1, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    text = json.dumps({"inputs": [tensor]}).encode()
    refused(target.infer(text + nan, {"Inference-Header-Content-Length": str(len(text))}), "raw NaN")
    refused(target.infer(b"", RAW), "nothing")


if __name__ == "__main__":
    run(attempt)
