import pytest

from encas.cost import Objective, member_costs
from encas.errors import InvalidInput
from encas.pool import Latency, Member


def timing(latency_s: float, batch: int = 1, provider: str = "cpu", machine: str = "desk") -> Latency:
    return Latency(
        machine=machine, provider=provider, batch=batch, latency_s=latency_s, p95_s=2 * latency_s, n=5
    )


def member(name: str, *latency: Latency) -> Member:
    return Member(name=name, source="imported", macs=1000 * len(name), latency=latency)


@pytest.mark.parametrize(
    "text", ["macs", "latency", "latency:cpu", "latency:cuda:8", "latency::1:desk", "latency:cpu::a: b"]
)
def test_an_objective_is_written_as_it_is_read(text: str) -> None:
    assert str(Objective.parse(text)) == text


def test_papers_call_macs_flops() -> None:
    assert Objective.parse("flops") == Objective("macs")


@pytest.mark.parametrize(
    "text", ["", "watt", "macs:cpu", "latency:cpu:0", "latency:cpu:x", "latencies:cpu:1"]
)
def test_another_objective_says_what_there_is(text: str) -> None:
    with pytest.raises(
        InvalidInput, match="must be macs, latency, latency:PROVIDER, latency:PROVIDER:BATCH or"
    ):
        Objective.parse(text)


def test_macs_are_the_members_own() -> None:
    objective = Objective.parse("macs")
    assert member_costs([member("a"), member("bb")], objective).tolist() == [1000, 2000]
    assert objective.unit == "MACs"


def test_latency_is_seconds_for_one_sample_of_the_measured_batch() -> None:
    members = [member("a", timing(0.5, batch=8)), member("b", timing(1.0, batch=8))]
    objective = Objective.parse("latency:cpu:8")
    assert member_costs(members, objective).tolist() == [0.0625, 0.125]
    assert objective.unit == "s"


def test_the_smallest_batch_counts_where_none_is_named() -> None:
    members = [
        member("a", timing(0.5), timing(0.75, batch=8)),
        member("b", timing(1.0), timing(2.0, batch=8)),
    ]
    assert member_costs(members, Objective.parse("latency")).tolist() == [0.5, 1.0]


def test_a_batch_that_all_were_measured_at_counts() -> None:
    members = [member("a", timing(0.5), timing(1.0, batch=8)), member("b", timing(2.0, batch=8))]
    assert member_costs(members, Objective.parse("latency")).tolist() == [0.125, 0.25]


def test_a_member_that_was_not_measured_is_named() -> None:
    with pytest.raises(InvalidInput, match="no such latency is recorded for b and 1 more members; measure"):
        member_costs([member("a", timing(1.0)), member("b"), member("c")], Objective.parse("latency"))
    with pytest.raises(InvalidInput, match="no such latency is recorded for a; measure the pool first"):
        member_costs([member("a", timing(1.0))], Objective.parse("latency:cuda"))


def test_measurements_of_two_machines_are_not_mixed() -> None:
    members = [member("a", timing(1.0)), member("b", timing(1.0, machine="server"))]
    with pytest.raises(InvalidInput, match="no machine, provider and batch size was measured for all"):
        member_costs(members, Objective.parse("latency"))


def test_a_machine_is_named_where_there_are_several() -> None:
    times = (timing(1.0), timing(2.0, machine="desk 2"), timing(0.5, machine="server", provider="cuda"))
    members = [member("a", *times), member("b", *times)]
    with pytest.raises(InvalidInput, match=r"must come from one machine.* as in 'latency:cpu:1:desk'"):
        member_costs(members, Objective.parse("latency"))
    for text, seconds in {"cpu:1:desk": 1, "cpu:1:desk 2": 2, "cuda": 0.5, "::serv": 0.5}.items():
        assert member_costs(members, Objective.parse(f"latency:{text}")).tolist() == [seconds, seconds]


def test_two_providers_must_be_told_apart() -> None:
    both = (timing(1.0), timing(0.5, provider="cuda"))
    members = [member("a", *both), member("b", *both)]
    with pytest.raises(InvalidInput, match="name one, as in 'latency:c"):
        member_costs(members, Objective.parse("latency"))
    assert member_costs(members, Objective.parse("latency:cuda")).tolist() == [0.5, 0.5]
