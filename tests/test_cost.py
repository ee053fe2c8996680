import numpy as np
import pytest

from encas.cost import Objective, PerSample, Timed, cost_model, member_times, taking_part
from encas.errors import InvalidInput
from encas.member import Latency, Member, Variant
from encas.refinement import Corrections, Factors


def timing(latency_s: float, batch: int = 1, provider: str = "cpu", machine: str = "desk") -> Latency:
    return Latency(
        machine=machine, provider=provider, batch=batch, latency_s=latency_s, p95_s=2 * latency_s, n=5
    )


def member(name: str, *latency: Latency) -> Member:
    return Member(name=name, source="imported", macs=1000 * len(name), latency=latency)


def singles(members: list[Member], text: str) -> list[float]:
    """What each member costs on its own, on a split of 100 samples."""
    return list(cost_model(members, Objective.parse(text), 100).singles)


@pytest.mark.parametrize(
    "text",
    [
        "macs",
        "latency",
        "latency:cpu",
        "latency:cuda:8",
        "latency::1:desk",
        "latency:cpu::a: b",
        "throughput",
        "throughput:cpu",
        "throughput::desk",
    ],
)
def test_an_objective_is_written_as_it_is_read(text: str) -> None:
    assert str(Objective.parse(text)) == text


def test_papers_call_macs_flops() -> None:
    assert Objective.parse("flops") == Objective("macs")


@pytest.mark.parametrize(
    "text", ["", "watt", "macs:cpu", "latency:cpu:0", "latency:cpu:x", "latencies:cpu:1", "throughputs"]
)
def test_another_objective_says_what_there_is(text: str) -> None:
    with pytest.raises(
        InvalidInput, match="must be macs, latency, latency:PROVIDER, latency:PROVIDER:BATCH, "
    ):
        Objective.parse(text)


def test_macs_are_the_members_own() -> None:
    assert singles([member("a"), member("bb")], "macs") == [1000, 2000]
    assert Objective.parse("macs").unit == "MACs"


def test_latency_is_seconds_for_one_sample_of_the_measured_batch() -> None:
    members = [member("a", timing(0.5, batch=8)), member("b", timing(1.0, batch=8))]
    assert singles(members, "latency:cpu:8") == [0.0625, 0.125]
    assert Objective.parse("latency:cpu:8").unit == "s"


def test_the_smallest_batch_counts_where_none_is_named() -> None:
    members = [
        member("a", timing(0.5), timing(0.75, batch=8)),
        member("b", timing(1.0), timing(2.0, batch=8)),
    ]
    assert singles(members, "latency") == [0.5, 1.0]


def test_a_batch_that_all_were_measured_at_counts() -> None:
    members = [member("a", timing(0.5), timing(1.0, batch=8)), member("b", timing(2.0, batch=8))]
    assert singles(members, "latency") == [0.125, 0.25]


def test_a_member_that_was_not_measured_is_named() -> None:
    with pytest.raises(InvalidInput, match="no such latency is recorded for b and 1 more members; measure"):
        singles([member("a", timing(1.0)), member("b"), member("c")], "latency")
    with pytest.raises(InvalidInput, match="no such latency is recorded for a; measure the pool first"):
        singles([member("a", timing(1.0))], "latency:cuda")


def test_measurements_of_two_machines_are_not_mixed() -> None:
    members = [member("a", timing(1.0)), member("b", timing(1.0, machine="server"))]
    with pytest.raises(InvalidInput, match="no machine and provider was measured for all"):
        singles(members, "latency")


def test_a_machine_is_named_where_there_are_several() -> None:
    times = (timing(1.0), timing(2.0, machine="desk 2"), timing(0.5, machine="server", provider="cuda"))
    members = [member("a", *times), member("b", *times)]
    with pytest.raises(InvalidInput, match=r"must come from one machine.* as in 'latency:cpu::desk'"):
        singles(members, "latency")
    for text, seconds in {"cpu:1:desk": 1, "cpu:1:desk 2": 2, "cuda": 0.5, "::serv": 0.5}.items():
        assert singles(members, f"latency:{text}") == [seconds, seconds]


def test_two_providers_must_be_told_apart() -> None:
    both = (timing(1.0), timing(0.5, provider="cuda"))
    members = [member("a", *both), member("b", *both)]
    with pytest.raises(InvalidInput, match="name one, as in 'latency:c"):
        singles(members, "latency")
    assert singles(members, "latency:cuda") == [0.5, 0.5]


def test_members_of_several_precisions_are_timed_each_in_its_own() -> None:
    half = timing(0.25).model_copy(update={"precision": "fp16"})
    fast = timing(0.5).model_copy(update={"precision": "int8"})
    quantised = member("b", timing(9.0), fast).model_copy(update={"precision": "int8"})
    assert singles([member("a", half, timing(1.0)), quantised], "latency:cpu") == [1.0, 0.5]
    with pytest.raises(InvalidInput, match="no such latency is recorded for b"):
        singles([member("a", timing(1.0)), quantised.model_copy(update={"precision": "fp16"})], "latency")


def test_machines_are_not_mixed_within_a_pool_of_several_precisions_either() -> None:
    fast = timing(0.5, machine="server").model_copy(update={"precision": "int8"})
    quantised = member("b", fast).model_copy(update={"precision": "int8"})
    with pytest.raises(InvalidInput, match="no machine and provider was measured for all"):
        singles([member("a", timing(1.0)), quantised], "latency")


def test_variants_that_were_not_measured_there_take_no_part_in_a_search_by_time() -> None:
    half = member("a.fp16").model_copy(update={"precision": "fp16", "variant": Variant(of="a")})
    members = [member("a", timing(1.0)), half]
    assert taking_part(members, Objective.parse("latency:cpu")) == (members[0],)
    assert taking_part(members, Objective.parse("macs")) == (*members,)
    assert taking_part([member("b")], Objective.parse("latency")) == (member("b"),)


def test_a_batch_that_was_not_measured_lies_between_those_that_were() -> None:
    members = [member("a", timing(0.5), timing(1.5, batch=3))]
    assert singles(members, "latency:cpu:2") == [0.5]
    assert singles(members, "latency:cpu:5") == [0.5]


def test_throughput_takes_the_batch_that_suits_a_member_best() -> None:
    members = [member("a", timing(0.5), timing(1.0, batch=8)), member("b", timing(1.0), timing(16, batch=8))]
    assert singles(members, "throughput") == [0.125, 1.0]


def test_stages_of_a_batch_of_two_cost_by_hand() -> None:
    """Half of the samples go on: of two, none with chance 1/4, one with 1/2, two with 1/4."""
    times, batch = member_times(
        [member("a", timing(1.0), timing(1.5, batch=2)), member("b", timing(4.0), timing(7.0, batch=2))],
        Objective.parse("latency:cpu:2"),
    )
    found = Timed.of(times, batch, 4).mean(np.array([[0, 1], [1, -1]]), np.array([[4, 2], [4, 0]]), 4)
    assert found == pytest.approx([(1.5 + (4.0 * 2 + 7.0) / 4) / 2, 3.5])


def test_corrections_multiply_runs_by_their_position_and_the_rest() -> None:
    """Of one sample: 0.5 for decoding, 0.25 for preparing, runs of 1 and 4; half of the samples go on."""
    entry = timing(1.0).model_copy(update={"prepare_s": 0.25, "decode_s": 0.5})
    members = [member("a", entry), member("b", entry.model_copy(update={"latency_s": 4.0}))]
    corrections = Corrections(members={"a": Factors(first=2.0, later=3.0)}, others=0.5, rest=10.0)
    model = cost_model(members, Objective.parse("latency"), 4, corrections)
    assert list(model.singles) == [2 + 7.5, 2 + 7.5]
    stages, reached = np.array([[0, 1], [1, 0]]), np.array([[4, 2], [4, 2]])
    assert model.mean(stages, reached, 4).tolist() == [2 + 1 + 7.5, 2 + 1.5 + 7.5]
    unchanged = Corrections(members={}, others=1.0, rest=1.0)
    usual = cost_model(members, Objective.parse("latency"), 4)
    same = cost_model(members, Objective.parse("latency"), 4, unchanged)
    assert same.mean(stages, reached, 4).tolist() == usual.mean(stages, reached, 4).tolist()


def test_macs_of_stages_count_as_often_as_they_run() -> None:
    model = PerSample(np.array([10.0, 100.0]))
    assert model.mean(np.array([[0, 1], [1, -1]]), np.array([[4, 1], [4, 0]]), 4).tolist() == [35, 100]
