"""What is guaranteed of a cascade's thresholds."""

from typing import Literal

from pydantic import Field

from encas.files import FileModel

Loss = Literal["accuracy", "consistency"]
Method = Literal["learn-then-test", "conformal-risk-control"]


class Certificate(FileModel):
    """Leaving early loses at most `risk`, whatever the samples are, if those to come are of the same kind.

    A loss of "consistency" is a sample that is answered otherwise than all stages together would answer it;
    a loss of "accuracy" one that all stages together would answer rightly, and the cascade does not.
    """

    loss: Loss
    method: Method
    risk: float = Field(gt=0, lt=1)  # share of the samples to come
    confidence: float | None = Field(
        default=None, gt=0, lt=1
    )  # None: holds in the mean over such certificates
    split: str
    n: int = Field(ge=1)  # samples that it rests on
    n_lost: int = Field(ge=0)  # of these
    p_value: float | None = Field(default=None, ge=0, le=1)  # that so few are lost if the risk is higher
    step: float = Field(
        ge=0, le=2
    )  # 0: all stages always; 1: the thresholds that there were; 2: the first only
    thresholds: tuple[float, ...]  # that it is about
    saving: float  # share of the cost of all stages that leaving early saves
    saving_before: float  # the same with the thresholds that there were

    def __str__(self) -> str:
        """Say it in a line."""
        what = "answered otherwise than by" if self.loss == "consistency" else "lost against"
        sure = "in the mean" if self.confidence is None else f"confidence {self.confidence:.6g}"
        return (
            f"at most {100 * self.risk:.4g} % {what} all stages ({sure}, {self.method}; "
            f"{self.n_lost} of {self.n} samples of {self.split} were)"
        )
