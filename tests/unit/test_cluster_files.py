"""What Slurm and Kubernetes are given: readable, and in agreement with the settings and with each other."""

import os
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

    rules = {rule["action"]: rule for rule in manifests["Job"]["spec"]["podFailurePolicy"]["rules"]}
    assert PREEMPTED_EXIT_CODE in rules["Ignore"]["onExitCodes"]["values"]
    assert f"$code == {PREEMPTED_EXIT_CODE} " in (ROOT / "infra/slurm/train.sbatch").read_text()


def test_pods_start_again_whatever_their_number_but_not_for_what_the_user_must_mend(manifests: dict[str, Any]) -> None:
    """A death ends all pods: counted together, eight machines would use up six failures at once."""
    from components.errors import USER_ERROR_EXIT_CODE

    job = manifests["Job"]["spec"]
    assert job["backoffLimitPerIndex"] >= Settings(_env_file=None).restarts
    assert "backoffLimit" not in job
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [USER_ERROR_EXIT_CODE]


@pytest.mark.parametrize(
    ("codes", "ended", "calls"),
    [
        ([0, 0], 0, ["srun", "srun", "selfsight run"]),
        ([137, 0, 0], 0, ["srun", "srun", "srun", "selfsight run"]),
        ([1, 1, 1, 0], 1, ["srun", "srun", "srun"]),
        ([2, 0], 2, ["srun"]),
        ([75, 0], 75, ["srun", "scontrol requeue 7"]),
        ([1, 143], 143, ["srun", "srun", "scontrol requeue 7"]),
    ],
    ids=["two stages", "a death", "deaths without end", "to be mended", "stopped", "stopped after a death"],
)
def test_F4_a_slurm_job_starts_its_machines_again_as_often_as_allowed(
    tmp_path: Path, codes: list[int], ended: int, calls: list[str]
) -> None:
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    fakes = {
        "srun": 'echo "srun $SELFSIGHT_RENDEZVOUS" >> calls\ncode=$(head -n 1 codes)\nsed -i 1d codes\nexit $code',
        "scontrol": 'if [[ $1 == show ]]; then echo node0; else echo "scontrol $*" >> calls; fi',
        "selfsight": 'if [[ $* == run ]]; then echo "selfsight run" >> calls; fi',
        "dvc": "exit 1",
    }
    for name, text in fakes.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tools / name).chmod(0o755)
    slurm = {"SUBMIT_DIR": tmp_path, "JOB_ID": 7, "JOB_NODELIST": "node[0-1]", "JOB_NUM_NODES": 2, "CPUS_PER_TASK": 4}
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    done = subprocess.run(
        ["bash", str(ROOT / "infra/slurm/train.sbatch")], env={"PATH": os.environ["PATH"], **environment}, check=False
    )
    made = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == ended
    assert [call.split(" node0")[0] for call in made] == calls
    starts = [call for call in made if call.startswith("srun")][: codes.index(0) + 1 if 0 in codes else None]
    assert len(set(starts)) == len(starts), "a store of the start before may still listen"
