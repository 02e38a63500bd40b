"""Is this data fit to use."""

import json
import tempfile
from pathlib import Path

from components.curation.checks import REMEDY, ValidateParams, check_manifest, quarantine_table
from components.curation.expectations import failed_rows, report, require
from components.data.manifest import Manifest
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: ValidateParams, context: StageContext) -> dict[str, float]:
    """Checks the manifest, writes data/validation/report.json, and stops if it is not fit."""
    manifest = Manifest.load(paths.MANIFEST)
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder) / "data-docs"
        results = check_manifest(manifest, params, docs)
        context.run.log_artifact(docs, "validation")
    text = json.dumps(report(results), indent=2) + "\n"
    context.run.log_text(text, "validation/report.json")
    context.run.log_text(failed_rows(results), "validation/failed-rows.csv")
    context.run.log_text(quarantine_table(manifest), "validation/quarantine.md")
    require(results, subject="the images", remedy=REMEDY)
    with publish(paths.VALIDATION) as folder_out:
        folder_out.mkdir(parents=True)
        (folder_out / "report.json").write_text(text, encoding="utf-8")
    return {"expectations": len(results), "succeeded": sum(result.success for result in results)}


if __name__ == "__main__":
    execute("validate", ValidateParams, run)
