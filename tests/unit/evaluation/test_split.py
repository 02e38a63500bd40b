"""Labels are used where they are, groups stay together, and without labels there is no score."""

import pytest

from components.data.splits import held_out
from components.evaluation.split import labelled_split


class Table:
    """A manifest in memory."""

    def __init__(self, rows: dict[str, tuple[str, str | None, str | None]]) -> None:
        self.rows = rows

    def ids(self, split: str) -> list[str]:
        return sorted(one for one, row in self.rows.items() if row[0] == split)

    def labels(self, ids: list[str]) -> list[str | None]:
        return [self.rows[one][1] for one in ids]

    def groups(self, ids: list[str]) -> list[str | None]:
        return [self.rows[one][2] for one in ids]


def rows(split: str, count: int, *, labels: bool = True, group: bool = False) -> dict:
    return {
        f"{split}{n}": (split, f"class{n % 3}" if labels else None, f"clip{n // 4}" if group else None)
        for n in range(count)
    }


def test_the_bank_is_what_deduplication_kept() -> None:
    table = Table({**rows("train", 30), **rows("eval", 12)})
    kept = {f"train{n}" for n in range(20)}
    found = labelled_split(table, kept, seed=0)  # type: ignore[arg-type]
    assert found is not None
    assert set(found.bank) == kept
    assert len(found.queries) == 12
    assert found.classes == ("class0", "class1", "class2")
    assert [found.classes[label] for label in found.bank_labels] == table.labels(list(found.bank))


def test_an_unlabelled_training_part_divides_the_evaluation_part_by_group() -> None:
    table = Table({**rows("train", 30, labels=False), **rows("eval", 80, group=True)})
    found = labelled_split(table, set(table.ids("train")), seed=0)  # type: ignore[arg-type]
    assert found is not None
    bank_groups, query_groups = set(table.groups(list(found.bank))), set(table.groups(list(found.queries)))
    assert bank_groups
    assert query_groups
    assert not bank_groups & query_groups


def test_an_evaluation_part_that_was_drawn_by_hash_is_divided_all_the_same() -> None:
    names = [f"image{n}" for n in range(1000)]
    chosen = held_out(names, fraction=0.1, seed=0)
    table = Table({one: ("eval", f"class{n % 3}", None) for n, one in enumerate(sorted(chosen))})
    found = labelled_split(table, set(), seed=0)  # type: ignore[arg-type]
    assert found is not None
    assert len(found.bank) / len(chosen) == pytest.approx(0.5, abs=0.2)


def test_an_evaluation_part_of_one_group_cannot_be_divided() -> None:
    table = Table({f"eval{n}": ("eval", f"class{n % 3}", "clip") for n in range(12)})
    assert labelled_split(table, set(), seed=0) is None  # type: ignore[arg-type]


def test_without_labels_there_is_nothing_to_score() -> None:
    table = Table({**rows("train", 30, labels=False), **rows("eval", 12, labels=False)})
    assert labelled_split(table, set(table.ids("train")), seed=0) is None  # type: ignore[arg-type]


def test_training_labels_of_other_classes_are_not_a_bank() -> None:
    other = {one: ("train", f"other{n % 3}", None) for n, one in enumerate(rows("train", 30))}
    table = Table({**other, **rows("eval", 40)})
    found = labelled_split(table, set(other), seed=0)  # type: ignore[arg-type]
    assert found is not None
    assert all(one.startswith("eval") for one in found.bank)


def test_the_groups_of_bank_and_queries_are_known_and_an_image_without_one_is_its_own() -> None:
    table = Table({**rows("train", 30, group=True), **rows("eval", 12)})
    found = labelled_split(table, set(table.ids("train")), seed=0)  # type: ignore[arg-type]
    assert found is not None
    assert list(found.bank_groups) == table.groups(list(found.bank))
    assert found.query_groups == found.queries


def test_an_evaluation_image_is_never_its_own_neighbour() -> None:
    table = Table({**rows("train", 30), **rows("eval", 12)})
    found = labelled_split(table, {*table.ids("train"), *table.ids("eval")}, seed=0)  # type: ignore[arg-type]
    assert found is not None
    assert not set(found.bank) & set(found.queries)
