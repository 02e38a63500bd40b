"""Is this data fit to use."""

import json

from components.curation.checks import ValidateParams, check_manifest, quarantine_table, report, require
from components.data.manifest import Manifest
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: ValidateParams, context: StageContext) -> dict[str, float]:
    """Checks the manifest, writes data/validation/report.json, and stops if it is not fit."""
    manifest = Manifest.load(paths.MANIFEST)
    results = check_manifest(manifest, params)
    text = json.dumps(report(results), indent=2) + "\n"
    context.run.log_text(text, "validation/report.json")
    context.run.log_text(quarantine_table(manifest), "validation/quarantine.md")
    require(results)
    with publish(paths.VALIDATION) as folder:
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text, encoding="utf-8")
    return {"expectations": len(results), "succeeded": sum(result.success for result in results)}


if __name__ == "__main__":
    execute("validate", ValidateParams, run)
