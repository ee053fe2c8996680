from typing import Any

import pytest

from encas.errors import InvalidInput
from encas.files import parse_model
from encas.preprocess import Preprocess


def test_one_number_is_a_square() -> None:
    assert parse_model({"size": 224}, Preprocess, "here").shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": 0}, "size must be positive"),
        ({"size": 32, "channels": 1}, "one number for each of 1 channels"),
        ({"size": 32, "std": [0.2, 0.0, 0.2]}, "std must be positive"),
        ({"size": 32, "interpolation": "spline"}, "interpolation"),
        ({"size": 32, "crop_pct": 1.5}, "crop_pct"),
        ({"size": 32, "crop": 1.0}, "crop"),
    ],
)
def test_what_no_network_can_want_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match="here: ") as error:
        parse_model(wrong, Preprocess, "here")
    assert says in str(error.value)
