import pytest

from encas.measurement import BatchTiming, Machine, Measurements, Timing
from encas.pool import Latency

MACHINE = Machine(name="a processor, 2 cores", cpu="a processor", cores=2, onnxruntime="1.32.0")


def test_throughput_is_the_batch_by_its_median() -> None:
    timing = BatchTiming(batch=32, latency_s=Timing(median=0.016, p95=0.1, n=5))
    assert timing.per_second == pytest.approx(2000)


def test_what_a_pool_takes_names_machine_provider_and_precision() -> None:
    entry = BatchTiming(batch=8, latency_s=Timing(median=0.02, p95=0.03, n=7))
    measured = Measurements(machine=MACHINE, provider="cpu", precision="fp16", members={"a": (entry,)})
    assert measured.latencies() == {
        "a": (
            Latency(
                machine="a processor, 2 cores",
                provider="cpu",
                precision="fp16",
                onnxruntime="1.32.0",
                batch=8,
                latency_s=0.02,
                p95_s=0.03,
                n=7,
            ),
        )
    }


def test_the_file_says_its_format_and_comes_back() -> None:
    entry = BatchTiming(batch=1, latency_s=Timing(median=0.1, p95=0.2, n=3))
    measured = Measurements(machine=MACHINE, provider="cpu", members={"a": (entry,)})
    text = measured.model_dump_json()
    assert '"format":"encas-measurements/1"' in text
    assert '"latency_s":{"median":0.1,"p95":0.2,"n":3,"noise":null}' in text
    assert Measurements.model_validate_json(text) == measured
