"""What a network wants done to an image before it sees it (the doing is in `encas.runtime.preprocess`)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from encas.files import FileModel

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
CropMode = Literal["center", "squash", "border"]
_MOST = 8192  # pixels on a side that an image is resized to


class Preprocess(FileModel):
    """From pixels to a float32 tensor (channels, height, width), in the order of the fields.

    The words and their meaning are those of timm's data configuration: the image is resized so that the
    crop takes `crop_pct` of it, cropped to `size`, divided by `divisor`, and normalised per channel.
    """

    channels: Literal[1, 3] = 3  # 3: RGB; 1: grayscale
    size: tuple[int, int]  # height, width of the tensor
    interpolation: Interpolation = "bicubic"
    crop_pct: float = Field(default=1.0, gt=0, le=1)
    crop_mode: CropMode = "center"
    divisor: float = Field(default=255.0, gt=0)  # 255: pixels become [0, 1]; 1: they stay 0..255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        """Let people write `size: 224`."""
        if isinstance(value, dict) and isinstance(value.get("size"), int):
            return {**value, "size": (value["size"], value["size"])}
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Preprocess":
        if min(self.size) < 1 or max(self.size) / self.crop_pct > _MOST:
            raise ValueError(f"size must be positive and, divided by crop_pct, at most {_MOST}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need one number for each of {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the tensor."""
        return (self.channels, *self.size)
