"""Names of published networks change: which of a list are there today, and under which names."""

from collections.abc import Iterator, Mapping, Sequence

from encas.errors import require
from encas.export.source import MemberSpec
from encas.files import FileModel


class Names(FileModel):
    """What became of the names of a list."""

    kept: int
    renamed: Mapping[str, str]  # to the successor that timm documents
    gone: tuple[str, ...]

    def in_words(self) -> Iterator[str]:
        """Say it in lines."""
        yield f"{self.kept} names of the list are known, {len(self.renamed)} more under another name"
        if self.gone:
            yield f"{len(self.gone)} names are known no more and left out: {', '.join(self.gone)}"


def todays(members: Sequence[MemberSpec]) -> tuple[list[MemberSpec], Names]:
    """Give timm's networks the names of the version that is installed; what has gone is left out."""
    require("timm", "export")
    from timm.models import get_deprecated_models, is_model  # noqa: PLC0415

    successors = {old: new for old, new in get_deprecated_models().items() if new}
    found: dict[str, MemberSpec] = {}
    renamed: dict[str, str] = {}
    gone, kept = [], 0
    for member in members:
        kind, _, name = member.source.partition(":")
        if kind != "timm" or (is_model(name) and name not in successors):
            kept += 1
            found.setdefault(member.source, member)
        elif name in successors:
            renamed[name] = successors[name]
            source = f"timm:{successors[name]}"
            found.setdefault(source, member.model_copy(update={"source": source}))
        else:
            gone.append(name)
    return list(found.values()), Names(kept=kept, renamed=renamed, gone=tuple(gone))
