import pytest
import torch
from torch import nn

from encas.search.nat.calibrate import Estimator, answers, calibrate, calibrated
from encas.search.nat.spaces import SPACES

from .nets import images, random_supernet

SPACE = SPACES["tiny-alphanet"]
# One channel: means 2 and 10, unbiased variances 8 / 3 and 0, biased ones 2 and 0.
BATCHES = [torch.tensor([0.0, 2.0, 2.0, 4.0]).view(4, 1, 1, 1), torch.full((2, 1, 1, 1), 10.0)]


@pytest.mark.parametrize(
    ("estimator", "mean", "variance"),
    [("mean", 6.0, 4 / 3), ("pooled", (4 * 2 + 2 * 10) / 6, (4 * 2 + 2 * 0) / 6)],
)
def test_estimators_weigh_batches_differently(estimator: Estimator, mean: float, variance: float) -> None:
    norm = nn.BatchNorm2d(1)
    calibrate(nn.Sequential(norm, nn.Conv2d(1, 1, 1)), BATCHES, estimator)
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(mean)
    assert norm.running_var.item() == pytest.approx(variance)
    assert norm.momentum == 0.1


def test_the_mean_of_batches_is_what_torch_accumulates() -> None:
    arch, batches = SPACE.largest, [images(4, 32, seed) for seed in range(3)]
    supernet = random_supernet(SPACE)
    ours, theirs = calibrated(supernet, arch, batches), supernet.extract(arch)
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
            norm.reset_running_stats()
            norm.train()
    with torch.no_grad():
        for batch in batches:
            theirs(batch)
    for key, buffer in ours.named_buffers():
        if "running" in key:
            torch.testing.assert_close(buffer, dict(theirs.named_buffers())[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(batches[0]), theirs.eval()(batches[0]), rtol=1e-4, atol=1e-5)


def test_the_estimators_differ_by_little_with_equal_batches() -> None:
    supernet, batches = random_supernet(SPACE), [images(16, 32, seed) for seed in range(2)]
    mean, pooled = (calibrated(supernet, SPACE.largest, batches, which) for which in ("mean", "pooled"))
    for one, other in zip(mean.modules(), pooled.modules(), strict=True):
        if isinstance(one, nn.BatchNorm2d) and isinstance(other, nn.BatchNorm2d):
            assert one.running_var is not None and other.running_var is not None
            torch.testing.assert_close(one.running_mean, other.running_mean)
            n = 16 * 4 * 4  # of the last layers, which have the fewest numbers
            ratio = one.running_var / other.running_var
            assert float(ratio.min()) > 1 - 1e-5 and float(ratio.max()) < n / (n - 1) + 1e-5


def test_answers_are_probabilities_after_calibration() -> None:
    supernet, arch = random_supernet(SPACE), SPACE.smallest
    shared = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    batches, calibration = [images(3, 16, 1), images(2, 16, 2)], [images(8, 16, 3)]
    probs = answers(supernet, arch, batches, calibration=calibration)
    net = calibrated(supernet, arch, calibration)
    with torch.no_grad():
        expected = torch.softmax(net(torch.cat(batches)), 1)
        uncalibrated = torch.softmax(supernet(torch.cat(batches), arch), 1)
    torch.testing.assert_close(torch.from_numpy(probs), expected)
    assert float((uncalibrated - expected).abs().max()) > 0.001
    assert all(torch.equal(tensor, shared[key]) for key, tensor in supernet.state_dict().items())


def test_without_images_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="calibration needs at least one batch"):
        answers(random_supernet(SPACE), SPACE.smallest, [images(1, 16)], calibration=[])
