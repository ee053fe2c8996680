"""A bundle that was exported, with golden samples in it."""

from pathlib import Path

import pytest

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.preprocess import Interpolation, Preprocess

FORMS: tuple[tuple[str, Interpolation, float], ...] = (
    ("hidden016", "bilinear", 1.0),
    ("hidden064", "bicubic", 0.9),
    ("hidden512", "bicubic", 0.9),
)


@pytest.fixture
def golden_bundle(digits_files: Path, tmp_path: Path) -> Bundle:
    """Digits; two of the three networks cut the middle out and resize it."""
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    from encas.export import MemberSpec, export, record

    specs = [
        MemberSpec(
            source=f"onnx:{digits_files}/networks/{name}.onnx",
            preprocess=Preprocess(
                channels=1,
                size=(8, 8),
                interpolation=interpolation,
                crop_pct=crop_pct,
                mean=(0.0,),
                std=(1.0,),
            ),
        )
        for name, interpolation, crop_pct in FORMS
    ]
    pool = record(tmp_path / "pool", specs, digits_files / "digits.npz", split="val", rows="597:1197")
    stages = (
        Stage(member="hidden016", threshold=0.8),
        Stage(member="hidden064", threshold=0.8),
        Stage(member="hidden512"),
    )
    return export(Cascade(stages=stages), pool, tmp_path / "bundle", name="digits")
