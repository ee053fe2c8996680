"""The same cascade behind LitServe with its batching: python litserve_peer.py litserve BUNDLE PORT.

An image or a tensor comes as base64 in JSON, as its clients send it.
"""

import base64
import sys
from pathlib import Path

import litserve as ls
from fastapi_peer import MAX_BATCH, decoded, run

from encas.runtime import CascadeExecutor


class Api(ls.LitAPI):
    """Decodes, and runs the whole cascade on every batch, in a process of its own."""

    def setup(self, _device: str) -> None:
        self.executor = CascadeExecutor(Path(sys.argv[2]), "cpu")

    def decode_request(self, request: dict) -> object:
        return decoded(request["kind"], base64.b64decode(request["data"]), self.executor.bundle)

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, inputs: list) -> list[dict]:
        return run(self.executor, inputs)

    def unbatch(self, output: list[dict]) -> list[dict]:
        return output

    def encode_response(self, output: dict) -> dict:
        return output


if __name__ == "__main__":
    server = ls.LitServer(Api(max_batch_size=MAX_BATCH, batch_timeout=0.001), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", generate_client_file=False)
