"""One job of every model on media behind URLs, by the vendor's client: what could be read of it, as JSON.

python all_models_by_url.py BASE_URL KEY URL…
"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import json
import sys
import time

from hume import HumeClient
from hume.expression_measurement.batch.types import Face, Language, Models, Ner, Prosody

base_url, key, *urls = sys.argv[1:]
batch = HumeClient(api_key=key, base_url=base_url).expression_measurement.batch
models = Models(
    face=Face(facs={}, identify_faces=True),
    burst={},
    prosody=Prosody(granularity="utterance", identify_speakers=True),
    language=Language(granularity="sentence", sentiment={}, toxicity={}),
    ner=Ner(),
    facemesh={},
)
job_id = batch.start_inference_job(urls=urls, models=models)
while batch.get_job_details(id=job_id).state.status not in ("COMPLETED", "FAILED"):
    time.sleep(0.5)
report = {"state": batch.get_job_details(id=job_id).state.status, "rows": {}, "classes": {}, "errors": []}
for source in batch.get_job_predictions(id=job_id):
    report["errors"] += [error.message for error in source.results.errors]
    for file in source.results.predictions:
        for model, found in file.models:
            for group in found.grouped_predictions if found else []:
                rows = report["rows"].setdefault(file.file, {})
                rows[model] = rows.get(model, 0) + len(group.predictions)
                report["classes"][model] = sorted({type(row).__name__ for row in group.predictions})
print(json.dumps(report))
