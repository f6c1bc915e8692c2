"""One job of every model on media behind URLs, by the legacy client: what could be read of it, as JSON.

python all_models_by_url_legacy.py BASE_URL KEY URL…
"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import json
import sys

from hume import HumeBatchClient
from hume.models.config import BurstConfig, FaceConfig, FacemeshConfig, LanguageConfig, NerConfig, ProsodyConfig

base_url, key, *urls = sys.argv[1:]
configs = [
    FaceConfig(facs={}, identify_faces=True),
    BurstConfig(),
    ProsodyConfig(identify_speakers=True),
    LanguageConfig(granularity="sentence", sentiment={}, toxicity={}),
    NerConfig(),
    FacemeshConfig(),
]
job = HumeBatchClient(key, _api_http_base_url=base_url).submit_job(urls, configs)
details = job.await_complete(timeout=300)
report = {"state": details.get_status().value, "rows": {}, "errors": []}
for source in job.get_predictions():
    report["errors"] += [error["message"] for error in source["results"]["errors"]]
    for file in source["results"]["predictions"]:
        for model, found in file["models"].items():
            rows = report["rows"].setdefault(file["file"], {})
            rows[model] = sum(len(group["predictions"]) for group in found["grouped_predictions"])
print(json.dumps(report))
