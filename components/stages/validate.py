"""Is this data fit to use."""

import json

from components.curation.checks import ValidateParams, check_manifest, require
from components.data.manifest import Manifest
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: ValidateParams, context: StageContext) -> dict[str, float]:
    """Checks the manifest, writes data/validation/report.json, and stops if it is not fit."""
    results = check_manifest(Manifest.load(paths.MANIFEST), params)
    report = json.dumps(results, indent=2) + "\n"
    context.run.log_text(report, "validation/report.json")
    require(results)
    with publish(paths.VALIDATION) as folder:
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(report, encoding="utf-8")
    return {"expectations": len(results), "succeeded": sum(result["success"] for result in results)}


if __name__ == "__main__":
    execute("validate", ValidateParams, run)
