"""What is said in an mp3, and how, by the legacy client: python prosody_mp3.py BASE_URL KEY FILE.mp3"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import sys

from hume import HumeBatchClient
from hume.models.config import ProsodyConfig

base_url, key, path = sys.argv[1:]
client = HumeBatchClient(key, _api_http_base_url=base_url)
job = client.submit_job(None, [ProsodyConfig(granularity="utterance")], files=[path])
job.await_complete(timeout=300)
full_predictions = job.get_predictions()
for source in full_predictions:
    predictions = source["results"]["predictions"]
    for prediction in predictions:
        prosody_predictions = prediction["models"]["prosody"]["grouped_predictions"]
        for prosody_prediction in prosody_predictions:
            for segment in prosody_prediction["predictions"]:
                top = sorted(segment["emotions"], key=lambda emotion: -emotion["score"])[:3]
                names = ", ".join(emotion["name"] for emotion in top)
                print(f"{segment['time']['begin']:.2f}\t{segment['time']['end']:.2f}\t{segment['text']}\t{names}")
