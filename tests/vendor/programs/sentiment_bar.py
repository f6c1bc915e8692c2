"""A bar of sentiment per sentence, by plain HTTP: python sentiment_bar.py BASE_URL KEY TEXT"""

# mypy: ignore-errors
import json
import sys
import time
import urllib.request

base_url, key, text = sys.argv[1:]


def call(path, body=None):
    request = urllib.request.Request(
        base_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Hume-Api-Key": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


job = call("/v0/batch/jobs", {"text": [text], "models": {"language": {"granularity": "sentence", "sentiment": {}}}})
while call(f"/v0/batch/jobs/{job['job_id']}")["state"]["status"] in ("QUEUED", "IN_PROGRESS"):
    time.sleep(0.2)
answer = call(f"/v0/batch/jobs/{job['job_id']}/predictions")
for row in answer[0]["results"]["predictions"][0]["models"]["language"]["grouped_predictions"][0]["predictions"]:
    total = sum(level["score"] for level in row["sentiment"])
    mean = sum(int(level["name"]) * level["score"] for level in row["sentiment"]) / total
    print(f"{'#' * round(mean)}\t{mean:.2f}\t{row['text']}")
