"""Lines of stdin that are not toxic, by the vendor's client: python toxicity_filter.py BASE_URL KEY < LINES"""

# The vendor's client is installed in its own environment only.
# mypy: ignore-errors
# pyright: reportMissingImports=false
import asyncio
import sys

from hume import AsyncHumeClient
from hume.expression_measurement.batch.types import Language, Models

base_url, key = sys.argv[1:]


async def main():
    client = AsyncHumeClient(api_key=key, base_url=base_url)
    batch = client.expression_measurement.batch
    lines = [line.strip() for line in sys.stdin if line.strip()]
    models = Models(language=Language(granularity="conversational_turn", toxicity={}))
    job_id = await batch.start_inference_job(text=lines, models=models)
    while (await batch.get_job_details(id=job_id)).state.status not in ("COMPLETED", "FAILED"):
        await asyncio.sleep(0.2)
    (source,) = await batch.get_job_predictions(id=job_id)
    for file in source.results.predictions:
        row = file.models.language.grouped_predictions[0].predictions[0]
        worst = max(one.score for one in row.toxicity)
        if worst < 0.5:
            print(row.text)


asyncio.run(main())
