"""Top emotions of a video, by the vendor's client: python top_emotions.py BASE_URL KEY VIDEO_URL"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import sys
import time

from hume import HumeClient
from hume.expression_measurement.batch.types import Face, Models

base_url, key, video = sys.argv[1:]
client = HumeClient(api_key=key, base_url=base_url)
job_id = client.expression_measurement.batch.start_inference_job(
    urls=[video], models=Models(face=Face(fps_pred=3, identify_faces=True))
)
delay = 0.5
while True:
    details = client.expression_measurement.batch.get_job_details(id=job_id)
    if details.state.status == "COMPLETED":
        break
    if details.state.status == "FAILED":
        sys.exit(f"job failed: {details.state.message}")
    time.sleep(delay)
    delay = min(delay * 2, 16)
sums = {}
frames = 0
for source in client.expression_measurement.batch.get_job_predictions(id=job_id):
    for file in source.results.predictions:
        for person in file.models.face.grouped_predictions:
            for face in person.predictions:
                frames += 1
                for emotion in face.emotions:
                    sums[emotion.name] = sums.get(emotion.name, 0) + emotion.score
for name, total in sorted(sums.items(), key=lambda one: -one[1])[:3]:
    print(f"{name}: {total / frames:.3f}")
