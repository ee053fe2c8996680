"""What a joint run is told: a file that people write (`configs/joint/`)."""

from pathlib import Path

from pydantic import Field, model_validator

from encas.errors import InvalidInput
from encas.files import FileModel, parse_model, read_yaml
from encas.search.joint.genome import JointSpace
from encas.search.nat.config import Data, Final, Loop, NatConfig, Other, Start
from encas.search.nat.spaces import space_named


class JointConfig(FileModel):
    """Supernetworks of any spaces, each of which gives every cascade one member.

    What `encas nat` is told of one supernetwork here holds for each: `loop.epochs` too, so five of them train
    five times as long. `loop.search` is MO-GOMEA, and `loop.trained` the candidates, always.
    """

    supernets: tuple[Other, ...] = Field(min_length=2)
    seed: int = Field(default=0, ge=0)
    data: Data
    start: Start | None = None
    loop: Loop
    final: Final = Final()

    @model_validator(mode="after")
    def _is_whole(self) -> "JointConfig":
        if self.loop.trained != "candidates" or self.loop.cosine != "restarted" or self.loop.fitted_on:
            raise ValueError("loop: trained, cosine and fitted_on belong to encas nat")
        if self.final.front != "all":
            raise ValueError("final.front: must be all")
        names = [one.space for one in self.supernets]
        if len(set(names)) < len(names):
            raise ValueError("supernets: each space must be another one")
        try:
            for which in range(len(names)):
                self.nat(which)
        except (InvalidInput, ValueError) as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def space(self) -> JointSpace:
        """All cascades."""
        return JointSpace(tuple(space_named(one.space) for one in self.supernets), self.data.classes)

    def nat(self, which: int) -> NatConfig:
        """What one of the supernetworks is told."""
        one = self.supernets[which]
        loop = self.loop.model_copy(update={"search": "mo-gomea"})
        return NatConfig(
            space=one.space,
            weights=one.weights,
            seed=self.seed,
            data=self.data,
            start=self.start,
            loop=loop,
            final=self.final,
        )


def read_joint(path: Path | str) -> JointConfig:
    """Read a configuration.

    Raises:
        InvalidInput: No such file, not YAML, or a field that is not what it should be.
    """
    return parse_model(read_yaml(Path(path)), JointConfig, str(path))
