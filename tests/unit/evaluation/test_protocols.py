"""The protocols find what is there, and nothing where nothing is."""

import pytest
import torch

from components.data.splits import held_out
from components.evaluation.knn import knn_correct
from components.evaluation.linear import LinearParams, _choosers, linear_probe
from components.features.extraction import Features

PARAMS = LinearParams(steps=200, learning_rates=(0.01, 0.1))


def clusters(count: int, classes: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, 16, generator=generator), labels


def plain_knn(bank: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, k: int) -> int:
    """The definition, one query at a time, in float64."""
    bank, query = bank.double(), query.double()
    cosine = (bank @ query) / (bank.norm(dim=1) * query.norm())
    votes: dict[int, float] = {}
    for index in cosine.argsort(descending=True)[:k].tolist():
        label = int(labels[index])
        votes[label] = votes.get(label, 0.0) + float(torch.exp(cosine[index] / 0.07))
    return max(sorted(votes), key=lambda label: votes[label])


def test_knn_matches_the_definition() -> None:
    bank, labels = clusters(150, 5, 1.5, 0)
    queries, truth = clusters(40, 5, 1.5, 1)
    correct = knn_correct(bank, labels, queries, truth)
    for k in (10, 20, 100):
        plain = [plain_knn(bank, labels, query, k) == int(label) for query, label in zip(queries, truth, strict=True)]
        assert correct[k].tolist() == plain


def test_knn_does_not_depend_on_the_length_of_features() -> None:
    bank, labels = clusters(100, 4, 1.0, 0)
    queries, truth = clusters(40, 4, 1.0, 1)
    scaled = knn_correct(bank * torch.rand(100, 1).add(0.1), labels, queries * 7, truth)
    assert torch.equal(scaled[20], knn_correct(bank, labels, queries, truth)[20])


def test_a_k_above_the_bank_is_cut() -> None:
    bank, labels = clusters(15, 3, 0.1, 0)
    correct = knn_correct(bank, labels, bank, labels)
    assert correct[20].tolist() == correct[200].tolist()


def features(x: torch.Tensor) -> Features:
    return Features(cls=torch.stack([torch.zeros_like(x), x], dim=1), patch_mean=torch.zeros_like(x))


def probe(noise: float, shuffled: bool = False) -> float:
    bank, labels = clusters(300, 4, noise, 0)
    queries, truth = clusters(200, 4, noise, 1)
    if shuffled:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    ids = tuple(f"{n:064x}" for n in range(300))
    found = linear_probe(features(bank), labels, ids, features(queries), truth, PARAMS, seed=0)
    return float(found.correct.float().mean())


def test_a_linear_probe_separates_what_is_separable() -> None:
    assert probe(0.3) > 0.99


def test_a_linear_probe_on_shuffled_labels_is_at_chance() -> None:
    assert probe(0.3, shuffled=True) == pytest.approx(0.25, abs=0.12)


def test_the_probe_never_chooses_by_the_queries() -> None:
    bank, labels = clusters(300, 4, 1.0, 0)
    queries, truth = clusters(200, 4, 1.0, 1)
    ids = tuple(f"{n:064x}" for n in range(300))
    wrong = (truth + 1) % 4
    for one in (truth, wrong):
        found = linear_probe(features(bank), labels, ids, features(queries), one, PARAMS, seed=0)
        assert (found.learning_rate, found.blocks) == _choice(bank, labels, ids, queries, truth)


def _choice(bank, labels, ids, queries, truth):  # type: ignore[no-untyped-def]
    found = linear_probe(features(bank), labels, ids, features(queries), truth, PARAMS, seed=0)
    return found.learning_rate, found.blocks


def test_images_of_one_group_never_both_train_heads_and_choose_among_them() -> None:
    keys = [f"clip{n // 5}" for n in range(100)]
    chooses = _choosers(keys, 0.3, seed=0).tolist()
    assert 0 < sum(chooses) < 100
    assert {keys[n] for n in range(100) if chooses[n]}.isdisjoint(keys[n] for n in range(100) if not chooses[n])


@pytest.mark.parametrize("held_out_share", [0.1, 0.2, 0.5])
def test_the_data_split_with_the_same_seed_does_not_decide_who_chooses(held_out_share: float) -> None:
    keys = [f"{n:064x}" for n in range(4000)]
    aside = held_out(keys, fraction=held_out_share, seed=0)
    bank = [key for key in keys if key not in aside]
    assert _choosers(bank, 0.2, seed=0).float().mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("groups", [2, 3])
def test_few_groups_are_divided_whole_whatever_their_hashes(groups: int, seed: int) -> None:
    keys = [f"clip{n % groups}" for n in range(12)]
    chooses = _choosers(keys, 0.2, seed=seed).tolist()
    sides = [{key for key, chosen in zip(keys, chooses, strict=True) if chosen is side} for side in (True, False)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_bank_that_is_one_group_still_has_images_that_choose() -> None:
    chooses = _choosers(["clip"] * 50, 0.2, seed=0)
    assert 0 < int(chooses.sum()) < 25


def test_the_probe_finds_labels_in_earlier_blocks_and_in_patches() -> None:
    bank, labels = clusters(300, 4, 0.3, 0)
    queries, truth = clusters(100, 4, 0.3, 1)
    keys = tuple(f"{n:064x}" for n in range(300))

    def found(place: str):  # type: ignore[no-untyped-def]
        def hidden(x: torch.Tensor) -> Features:
            nothing = torch.zeros_like(x)
            if place == "patches":
                return Features(cls=torch.stack([nothing, nothing], dim=1), patch_mean=x)
            return Features(cls=torch.stack([x, nothing], dim=1), patch_mean=nothing)

        return linear_probe(hidden(bank), labels, keys, hidden(queries), truth, PARAMS, seed=0)

    earlier, patches = found("earlier"), found("patches")
    assert earlier.correct.float().mean() > 0.95
    assert earlier.blocks == 2
    assert patches.correct.float().mean() > 0.95
    assert patches.with_patches


def test_the_head_is_the_one_of_a_plain_softmax_regression() -> None:
    """One learning rate, compared with torch.optim.SGD step by step."""
    from components.evaluation.linear import _batches, _train

    x, labels = clusters(64, 3, 1.0, 0)
    params = LinearParams(steps=20, batch_size=16, learning_rates=(0.5, 0.1))
    heads = _train(x, labels, 3, params, seed=5)
    generator = torch.Generator().manual_seed(5)
    weight = torch.nn.Parameter(torch.randn(16, 3, generator=generator) * 0.01)
    bias = torch.nn.Parameter(torch.zeros(3))
    peak = 0.1 * 16 / 256
    sgd = torch.optim.SGD([weight, bias], lr=peak, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 20)
    for _, rows in zip(range(20), _batches(64, 16, generator), strict=False):
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(x[rows] @ weight + bias, labels[rows]).backward()
        sgd.step()
        schedule.step()
    torch.testing.assert_close(heads.weights[:, 3:], weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heads.bias[3:], bias.detach(), rtol=1e-4, atol=1e-6)
