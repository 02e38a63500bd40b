import itertools

import pyarrow.compute as pc

from components.curation.funnel import funnel, funnel_metrics, funnel_table
from tests.curations import make


def test_every_file_is_accounted_for() -> None:
    curation = make(left_out=5, broken=2).curation
    steps = funnel(curation.manifest, curation.groups, curation.curated)
    assert [(step.stage, step.came, step.went, step.stayed) for step in steps] == [
        ("ingest", 40, {"same-bytes": 1}, 39),
        ("ingest", 39, {"truncated": 2}, 37),
        ("dedup", 37, {"duplicate": 3, "leak": 2}, 32),
        ("retrieve", 32, {"not-retrieved": 5}, 27),
    ]
    assert all(one.stayed == other.came for one, other in itertools.pairwise(steps))
    assert steps[-1].stayed == len(curation.curated)


def test_images_that_deduplication_never_saw_are_forgotten() -> None:
    curation = make().curation
    steps = funnel(curation.manifest, curation.groups.slice(1), curation.curated)
    assert steps[2].went["forgotten"] == 1


def test_metrics_are_flat_and_add_up() -> None:
    curation = make().curation
    metrics = funnel_metrics(funnel(curation.manifest, curation.groups, curation.curated))
    went = sum(value for name, value in metrics.items() if name.startswith("funnel.went."))
    assert metrics["funnel.files"] - went == metrics["funnel.trained_on"] == 27
    assert metrics["funnel.ingest.came"] == 40
    assert metrics["funnel.ingest.stayed"] == metrics["funnel.dedup.came"] == 37


def test_the_table_has_a_row_for_a_step_in_which_nothing_went() -> None:
    curation = make(left_out=0).curation
    table = funnel_table(funnel(curation.manifest, curation.groups, curation.curated))
    assert table.to_pylist()[-1] == {"step": "retrieve", "came": 32, "reason": None, "went": 0}
    assert pc.sum(table["went"]).as_py() == 8
