"""Our table of messages against the protocol's own definition and that of Triton's clients."""

import json
import subprocess
import sys
from typing import Any

import pytest

from encas.serve.grpc_messages import CALLS, message

# In a process of its own: each of the two libraries registers the package in the one pool of protobuf.
FIELDS = """
import json, sys
from {module} import {name} as found
descriptor = found.DESCRIPTOR
def fields(message, prefix=""):
    for field in message.fields:
        other = field.message_type.full_name if field.message_type else ""
        yield prefix + message.name, [field.number, field.name, field.type, field.is_repeated, other]
    for nested in message.nested_types:
        yield from fields(nested, prefix + message.name + ".")
found = {{}}
for message in descriptor.message_types_by_name.values():
    for name, field in fields(message):
        found.setdefault(name, []).append(field)
json.dump([found, [m.name for m in descriptor.services_by_name["GRPCInferenceService"].methods]], sys.stdout)
"""


def definition(module: str, name: str) -> tuple[dict[str, list[Any]], list[str]]:
    code = FIELDS.format(module=module, name=name)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    fields, calls = json.loads(shown)
    return fields, calls


def ours(name: str) -> list[list[Any]]:
    return [
        [
            field.number,
            field.name,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else "",
        ]
        for field in message(name).DESCRIPTOR.fields
    ]


def test_every_message_of_the_protocol_is_ours() -> None:
    fields, calls = definition("open_inference.grpc", "protocol")
    assert set(calls) <= set(CALLS)
    checked = 0
    for name, theirs in fields.items():
        # double_param and uint64_param came later than this library.
        mine = [field for field in ours(name) if field[0] <= max(f[0] for f in theirs)]
        assert sorted(mine) == sorted(theirs), name
        checked += 1
    assert checked > 15


@pytest.mark.slow
def test_every_message_that_triton_shares_has_its_numbers() -> None:
    fields, calls = definition("tritonclient.grpc", "service_pb2")
    assert set(CALLS) <= set(calls)
    for call in CALLS:
        for name in (f"{call}Request", f"{call}Response"):
            theirs = {field[0]: field for field in fields.get(name, [])}
            for field in ours(name):
                if field[1] != "properties":  # the protocol's, and not Triton's
                    assert theirs[field[0]] == field, name


def test_a_message_survives_the_wire() -> None:
    request = message("ModelInferRequest")(model_name="digits", raw_input_contents=[b"\0\1"])
    image = request.inputs.add(name="image", datatype="UINT8", shape=[1, 1, 2])
    image.parameters["binary"].bool_param = True
    again = message("ModelInferRequest").FromString(request.SerializeToString())
    assert again == request
    assert again.inputs[0].parameters["binary"].WhichOneof("parameter_choice") == "bool_param"
