import pytest
import torch
from torch import Tensor

from components.objectives.centring import SoftmaxCentring, sinkhorn

TEMPERATURE = 0.05


def cosines(rows: int, prototypes: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, prototypes, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plain_sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Normalise the whole matrix again and again, as the paper writes it."""
    q = (logits.double() / temperature).exp().T
    prototypes, rows = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / rows
    return (q * rows).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("rows", [1, 6, 40])
def test_sinkhorn_equals_the_plain_matrix_version(rows: int, iterations: int) -> None:
    logits = cosines(rows, 8)
    found = sinkhorn(logits, temperature=TEMPERATURE, iterations=iterations)
    expected = plain_sinkhorn(logits, TEMPERATURE, iterations)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_sinkhorn_rows_sum_to_one_and_prototypes_are_used_alike() -> None:
    found = sinkhorn(cosines(64, 8), temperature=0.1, iterations=50)
    torch.testing.assert_close(found.sum(1), torch.ones(64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.sum(0), torch.full((8,), 8.0), rtol=1e-3, atol=1e-3)


def test_sinkhorn_is_float32_and_finite_at_low_temperature() -> None:
    found = sinkhorn(cosines(16, 8).bfloat16(), temperature=0.02)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_sinkhorn_of_no_rows_is_empty() -> None:
    assert sinkhorn(cosines(0, 8), temperature=TEMPERATURE).shape == (0, 8)


def test_sinkhorn_leaves_its_input_alone() -> None:
    logits = cosines(4, 8)
    before = logits.clone()
    sinkhorn(logits, temperature=TEMPERATURE)
    assert torch.equal(logits, before)


def test_centre_of_a_step_is_the_one_left_by_the_step_before() -> None:
    centring, logits = SoftmaxCentring(8), cosines(6, 8)
    torch.testing.assert_close(centring(logits, TEMPERATURE), (logits / TEMPERATURE).softmax(-1))
    centring.commit()
    expected = ((logits - 0.1 * logits.mean(0)) / TEMPERATURE).softmax(-1)
    torch.testing.assert_close(centring(logits, TEMPERATURE), expected)


def test_rejected_step_leaves_no_trace_in_the_centre() -> None:
    centring = SoftmaxCentring(8)
    centring(cosines(6, 8), TEMPERATURE)
    centring.reject()
    centring.commit()
    assert torch.equal(centring.centre, torch.zeros(1, 8))


def test_non_finite_logits_do_not_reach_the_centre_of_a_rejected_step() -> None:
    centring = SoftmaxCentring(8)
    centring(torch.full((2, 8), float("nan")), TEMPERATURE)
    centring.reject()
    centring(cosines(2, 8), TEMPERATURE)
    centring.commit()
    assert centring.centre.isfinite().all()


def test_micro_batches_of_different_sizes_move_the_centre_by_the_mean_of_all_rows() -> None:
    centring, logits = SoftmaxCentring(8, momentum=0.9), cosines(7, 8)
    centring(logits[:2], TEMPERATURE)
    centring(logits[2:], TEMPERATURE)
    centring.commit()
    torch.testing.assert_close(centring.centre, 0.1 * logits.mean(0, keepdim=True))


def test_step_without_rows_keeps_the_centre() -> None:
    centring = SoftmaxCentring(8)
    centring(cosines(6, 8), TEMPERATURE)
    centring.commit()
    before = centring.centre.clone()
    assert centring(cosines(0, 8), TEMPERATURE).shape == (0, 8)
    centring.commit()
    assert torch.equal(centring.centre, before)


def test_centre_is_saved_and_stays_float32_in_a_bfloat16_model() -> None:
    centring = SoftmaxCentring(8).bfloat16()
    centring(cosines(6, 8).bfloat16(), TEMPERATURE)
    centring.commit()
    exact = centring.centre.clone()
    centring.bfloat16()
    assert centring.centre.dtype == torch.float32
    assert torch.equal(centring.state_dict()["centre"], exact)
