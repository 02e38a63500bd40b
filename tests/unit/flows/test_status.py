"""Which stages would run, and why."""

from flows.graph import Phase, PipelineGraph
from flows.status import _reason, _statuses

GRAPH = PipelineGraph(
    (Phase("curate", ("ingest", "embed")), Phase("pretrain", ("pretrain",))),
    {"ingest": frozenset(), "embed": frozenset({"ingest"}), "pretrain": frozenset({"embed"})},
)


def test_without_changes_everything_is_up_to_date() -> None:
    assert [status.detail for status in _statuses(GRAPH, {})] == ["up to date"] * 3


def test_a_changed_stage_is_named_with_its_reason_and_what_follows_waits_for_it() -> None:
    details = {status.stage: status.detail for status in _statuses(GRAPH, {"embed": "params.yaml changed"})}
    assert details == {"ingest": "up to date", "embed": "params.yaml changed", "pretrain": "after embed"}


def test_dvcs_list_of_changes_becomes_a_few_words() -> None:
    changes = [
        {"changed deps": {"params.yaml": {"embed.size": "modified"}, "data/shards": "deleted"}},
        {"changed outs": {"data/embeddings": "modified"}},
        "changed command",
    ]
    assert _reason(changes) == "params.yaml changed, data/shards deleted, data/embeddings modified, changed command"
