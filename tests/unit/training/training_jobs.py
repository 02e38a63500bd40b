"""A job to do nothing with."""

from pathlib import Path

from components.training.job import Job

JOB = Job(
    name="distill",
    params={"steps": 3},
    locations=Path("m"),
    shards=Path("s"),
    curated=Path("c"),
    teacher=Path("t"),
    artifact=Path("a"),
    history=Path("h.csv"),
    checkpoints=Path("k"),
    lineage={"stage": "distill"},
    code="abc",
    device="cpu",
    processes=2,
    threads=1,
    restarts=2,
    collective_seconds=600.0,
    mirror=None,
    s3_endpoint=None,
    run_key=None,
    stage_pid=7,
)
