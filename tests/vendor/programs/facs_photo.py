"""Action units of a photo, by the vendor's client: python facs_photo.py BASE_URL KEY PHOTO"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import sys
import time

from hume import HumeClient
from hume.expression_measurement.batch.types import Face, InferenceBaseRequest, Models

base_url, key, photo = sys.argv[1:]
batch = HumeClient(api_key=key, base_url=base_url).expression_measurement.batch
with open(photo, "rb") as opened:
    job_id = batch.start_inference_job_from_local_file(
        file=[opened], json=InferenceBaseRequest(models=Models(face=Face(facs={})))
    )
while batch.get_job_details(id=job_id).state.status not in ("COMPLETED", "FAILED"):
    time.sleep(0.2)
face = batch.get_job_predictions(id=job_id)[0].results.predictions[0].models.face.grouped_predictions[0].predictions[0]
for unit in sorted(face.facs, key=lambda unit: -unit.score):
    print(f"{unit.score:.3f}\t{unit.name}")
