"""The messages of the Open Inference Protocol's gRPC service, as a table.

They are built into a pool of their own when they are first needed: nothing is generated, nothing has to fit
the version of protobuf that generated it, and a client library in the same process has its own.

Source: Open Inference Protocol, `open_inference_grpc.proto`; the calls on the repository and the statistics
are those that Triton's clients know.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

# Message -> its fields: number, name, type. "*" repeats, "map" maps from strings, "?" is one of a choice.
_MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ((1, "live", "bool"),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ((1, "ready", "bool"),),
    "ModelReadyRequest": ((1, "name", "string"), (2, "version", "string")),
    "ModelReadyResponse": ((1, "ready", "bool"),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ((1, "name", "string"), (2, "version", "string"), (3, "extensions", "*string")),
    "ModelMetadataRequest": ((1, "name", "string"), (2, "version", "string")),
    "ModelMetadataResponse": (
        (1, "name", "string"),
        (2, "versions", "*string"),
        (3, "platform", "string"),
        (4, "inputs", "*ModelMetadataResponse.TensorMetadata"),
        (5, "outputs", "*ModelMetadataResponse.TensorMetadata"),
        (6, "properties", "map string"),
    ),
    "ModelMetadataResponse.TensorMetadata": (
        (1, "name", "string"),
        (2, "datatype", "string"),
        (3, "shape", "*int64"),
    ),
    "InferParameter": (
        (1, "bool_param", "?bool"),
        (2, "int64_param", "?int64"),
        (3, "string_param", "?string"),
        (4, "double_param", "?double"),
        (5, "uint64_param", "?uint64"),
    ),
    "InferTensorContents": (
        (1, "bool_contents", "*bool"),
        (2, "int_contents", "*int32"),
        (3, "int64_contents", "*int64"),
        (4, "uint_contents", "*uint32"),
        (5, "uint64_contents", "*uint64"),
        (6, "fp32_contents", "*float"),
        (7, "fp64_contents", "*double"),
        (8, "bytes_contents", "*bytes"),
    ),
    "ModelInferRequest": (
        (1, "model_name", "string"),
        (2, "model_version", "string"),
        (3, "id", "string"),
        (4, "parameters", "map InferParameter"),
        (5, "inputs", "*ModelInferRequest.InferInputTensor"),
        (6, "outputs", "*ModelInferRequest.InferRequestedOutputTensor"),
        (7, "raw_input_contents", "*bytes"),
    ),
    "ModelInferRequest.InferInputTensor": (
        (1, "name", "string"),
        (2, "datatype", "string"),
        (3, "shape", "*int64"),
        (4, "parameters", "map InferParameter"),
        (5, "contents", "InferTensorContents"),
    ),
    "ModelInferRequest.InferRequestedOutputTensor": (
        (1, "name", "string"),
        (2, "parameters", "map InferParameter"),
    ),
    "ModelInferResponse": (
        (1, "model_name", "string"),
        (2, "model_version", "string"),
        (3, "id", "string"),
        (4, "parameters", "map InferParameter"),
        (5, "outputs", "*ModelInferResponse.InferOutputTensor"),
        (6, "raw_output_contents", "*bytes"),
    ),
    "ModelInferResponse.InferOutputTensor": (
        (1, "name", "string"),
        (2, "datatype", "string"),
        (3, "shape", "*int64"),
        (4, "parameters", "map InferParameter"),
        (5, "contents", "InferTensorContents"),
    ),
    "RepositoryIndexRequest": ((1, "repository_name", "string"), (2, "ready", "bool")),
    "RepositoryIndexResponse": ((1, "models", "*RepositoryIndexResponse.ModelIndex"),),
    "RepositoryIndexResponse.ModelIndex": (
        (1, "name", "string"),
        (2, "version", "string"),
        (3, "state", "string"),
        (4, "reason", "string"),
    ),
    "ModelRepositoryParameter": (
        (1, "bool_param", "?bool"),
        (2, "int64_param", "?int64"),
        (3, "string_param", "?string"),
        (4, "bytes_param", "?bytes"),
    ),
    "RepositoryModelLoadRequest": (
        (1, "repository_name", "string"),
        (2, "model_name", "string"),
        (3, "parameters", "map ModelRepositoryParameter"),
    ),
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": (
        (1, "repository_name", "string"),
        (2, "model_name", "string"),
        (3, "parameters", "map ModelRepositoryParameter"),
    ),
    "RepositoryModelUnloadResponse": (),
    "ModelStatisticsRequest": ((1, "name", "string"), (2, "version", "string")),
    "StatisticDuration": ((1, "count", "uint64"), (2, "ns", "uint64")),
    "InferStatistics": (
        (1, "success", "StatisticDuration"),
        (2, "fail", "StatisticDuration"),
        (3, "queue", "StatisticDuration"),
        (4, "compute_input", "StatisticDuration"),
        (5, "compute_infer", "StatisticDuration"),
        (6, "compute_output", "StatisticDuration"),
    ),
    "InferBatchStatistics": ((1, "batch_size", "uint64"), (3, "compute_infer", "StatisticDuration")),
    "ModelStatistics": (
        (1, "name", "string"),
        (2, "version", "string"),
        (3, "last_inference", "uint64"),
        (4, "inference_count", "uint64"),
        (5, "execution_count", "uint64"),
        (6, "inference_stats", "InferStatistics"),
        (7, "batch_stats", "*InferBatchStatistics"),
    ),
    "ModelStatisticsResponse": ((1, "model_stats", "*ModelStatistics"),),
}

CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ModelStatistics",
)

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


@cache
def message(name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="encas/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path in sorted(_MESSAGES):  # a message comes before those inside it
        outer, _, name = path.rpartition(".")
        made[path] = (made[outer].nested_type if outer else file.message_type).add(name=name)
        for number, field, kind in _MESSAGES[path]:
            _add_field(made[path], path, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(owner: descriptor_pb2.DescriptorProto, path: str, number: int, name: str, kind: str) -> None:
    field = owner.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("map "):
        entry = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        nested = owner.nested_type.add(name=entry)
        nested.options.map_entry = True
        _add_field(nested, "", 1, "key", "string")
        _add_field(nested, "", 2, "value", kind.removeprefix("map "))
        kind = f"*{path}.{entry}"
    if kind.startswith("*"):
        field.label = _Field.LABEL_REPEATED
    if kind.startswith("?"):
        if not owner.oneof_decl:
            owner.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    kind = kind.lstrip("*?")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
