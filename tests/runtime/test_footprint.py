import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")

from encas.errors import InvalidInput
from encas.runtime.footprint import footprint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_a_network_holds_at_least_its_weights_and_more_for_larger_batches(
    networks: Any, tmp_path: Path
) -> None:
    found = {}
    for network in (networks[0], networks[-1]):
        path = tmp_path / f"{network.name}.onnx"
        path.write_bytes(network.onnx_bytes())
        found[network.name] = footprint(path, (1, 8, 8), 10, (20_000, 1), "cpu")
    small, large = found.values()
    assert list(small) == [1, 20_000]
    hidden = 4 * networks[-1].w.shape[1] * 20_000  # bytes of one layer's output
    assert large[20_000] - large[1] > hidden
    assert large[20_000] - small[20_000] > hidden / 2


@pytest.mark.slow
def test_a_network_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(InvalidInput, match=r"broken.onnx: measuring its memory failed: ") as error:
        footprint(tmp_path / "broken.onnx", (1, 8, 8), 10, (1,), "cpu")
    assert "\n" not in str(error.value)
