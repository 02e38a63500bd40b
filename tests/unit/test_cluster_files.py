"""What Slurm and Kubernetes are given: readable, and in agreement with the settings and with each other."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.settings import Settings
from components.training.nodes import Nodes

ROOT = Path(__file__).parents[2]
SCRIPTS = ["infra/node.sh", "infra/slurm/train.sbatch"]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    documents = YAML(typ="safe").load_all((ROOT / "infra" / "kubernetes" / "train.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_valid_bash_and_stops_at_the_first_error(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text()


@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_machine_0_runs_the_phase_and_the_others_the_stage(stage: str, tmp_path: Path) -> None:
    for name in ("selfsight", "python"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} $* as $SELFSIGHT_NODE_RANK\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for given, wanted in {
        "": f"selfsight run {stage} as 0",
        "0": f"selfsight run {stage} as 0",
        "1": f"python -m components.stages.{stage} as 1",
    }.items():
        environment = {**path, "SELFSIGHT_NODE_RANK": given} if given else path
        script = ["bash", str(ROOT / "infra/node.sh"), stage]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == wanted


def test_every_setting_that_a_file_names_is_one() -> None:
    known = {f"SELFSIGHT_{name.upper()}" for name in Settings.model_fields}
    for file in (*SCRIPTS, "infra/kubernetes/train.yaml"):
        words = (
            (ROOT / file).read_text().replace("=", " ").replace(":", " ").replace("$", " ").replace("{", " ").split()
        )
        assert {word.strip("\"',") for word in words if word.startswith("SELFSIGHT_")} <= known, file


def test_the_pods_find_each_other_where_the_first_one_listens(manifests: dict[str, Any]) -> None:
    service, job = manifests["Service"], manifests["Job"]
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(environment["SELFSIGHT_NODES"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    host, _, port = environment["SELFSIGHT_RENDEZVOUS"].partition(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == environment["SELFSIGHT_PROCESSES"]
    settings = Settings(nodes=2, rendezvous=environment["SELFSIGHT_RENDEZVOUS"], _env_file=None)
    assert Nodes.of(settings).rendezvous == environment["SELFSIGHT_RENDEZVOUS"]


def test_a_pod_has_the_time_for_a_checkpoint(manifests: dict[str, Any]) -> None:
    from components.training.processes import GRACE_SECONDS

    pod = manifests["Job"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS


def test_a_stop_after_a_checkpoint_is_no_failure(manifests: dict[str, Any]) -> None:
    from components.training.job import PREEMPTED_EXIT_CODE

    [rule] = manifests["Job"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "Ignore"
    assert PREEMPTED_EXIT_CODE in rule["onExitCodes"]["values"]
    assert f"$code == {PREEMPTED_EXIT_CODE} " in (ROOT / "infra/slurm/train.sbatch").read_text()
