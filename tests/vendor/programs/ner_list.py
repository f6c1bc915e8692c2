"""Who and what is named in a text, by the legacy client: python ner_list.py BASE_URL KEY TEXT"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import sys

from hume import HumeBatchClient
from hume.models.config import NerConfig

base_url, key, text = sys.argv[1:]
client = HumeBatchClient(key, _api_http_base_url=base_url)
job = client.submit_job([], [NerConfig()], text=[text])
job.await_complete(timeout=120)
for source in job.get_predictions():
    for file in source["results"]["predictions"]:
        for group in file["models"]["ner"]["grouped_predictions"]:
            for row in group["predictions"]:
                begin, end = row["position"]["begin"], row["position"]["end"]
                strongest = max(row["emotions"], key=lambda emotion: emotion["score"])
                print(f"{row['entity']}\t{text[begin:end]}\t{strongest['name']}")
