"""Members of a pool, as commands show them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from encas.member import Latency, Member
    from encas.pool import Pool


def members_as_json(pool: "Pool", members: "Sequence[Member]") -> dict[str, Any]:
    """Return what `--json` prints of members."""
    return {
        "pool": str(pool.path),
        "classes": pool.n_classes,
        "splits": {name: split.n for name, split in pool.file.splits.items()},
        "members": [
            {
                **member.model_dump(mode="json", exclude={"outputs"}),
                "accuracy": _accuracies(pool, member),
            }
            for member in members
        ],
    }


def print_members(pool: "Pool", members: "Sequence[Member]") -> None:
    """Print a line for each: cost, accuracy on each split, time where most of them were measured."""
    from encas.cli.output import print_table

    splits = list(pool.file.splits)
    setting = _shown_latency(members)
    header = ["member", "MMACs", "Mparams", *(f"{split} %" for split in splits)]
    rows = []
    for member in members:
        accuracies = _accuracies(pool, member)
        params = "" if member.params is None else f"{member.params / 1e6:.3g}"
        right = [f"{100 * accuracies[split]:.2f}" if split in accuracies else "" for split in splits]
        rows.append([member.name, f"{member.macs / 1e6:.4g}", params, *right])
        if setting is not None:
            times = [f"{1e3 * entry.latency_s:.3g}" for entry in member.latency if _setting(entry) == setting]
            rows[-1].append((times or [""])[0])
    if setting is not None:
        header.append(f"ms {setting[1]}:{setting[3]}")
    print_table(header, rows)


def _accuracies(pool: "Pool", member: "Member") -> dict[str, float]:
    """Share of right answers on each recorded split."""
    return {
        split: float((pool.probs(member.name, split).argmax(axis=1) == pool.labels(split)).mean())
        for split in pool.file.splits
        if split in member.outputs
    }


def _shown_latency(members: "Sequence[Member]") -> tuple[str, str, str, int] | None:
    """Choose one machine, provider, precision and batch: what most members share, then the smallest."""
    counts: dict[tuple[str, str, str, int], int] = {}
    for member in members:
        for entry in member.latency:
            counts[_setting(entry)] = counts.get(_setting(entry), 0) + 1
    return min(counts, key=lambda setting: (-counts[setting], setting[3], setting), default=None)


def _setting(entry: "Latency") -> tuple[str, str, str, int]:
    return (entry.machine, entry.provider, entry.precision, entry.batch)
