"""The face measurer on real photographs, and on files that are none."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from benchmarks.measuring.face import cut_video
from humebatch.jobs import Face
from humebatch.predictions import FacePrediction
from humebatch.server.measure import (
    Attachment,
    FileType,
    Measurer,
    Media,
    Merged,
    Note,
    Row,
    Unmeasurable,
    carried,
)
from humebatch.server.measure.face import FaceMeasurer, measurer
from humebatch.server.measure.face_expression import EMOTION_OF_EXPRESSION
from humebatch.server.measure.face_mesh import BLENDSHAPES
from humebatch.server.measure.face_picture import FIRST_FRAME, WORKING_SIDE, open_picture
from humebatch.server.measure.face_units import DESCRIPTIONS, FACS_GIVEN, SHAPES_OF_DESCRIPTION, SHAPES_OF_UNIT
from humebatch.server.measure.recording import Recording
from humebatch.server.media import file_type
from humebatch.testing import check_measurer
from humebatch.vocabulary import EMOTIONS, FACE_DESCRIPTIONS, FACS

ASTRONAUT_BOX = (180, 70, 92, 108)  # x, y, w, h: forehead to chin, read off the picture


@pytest.fixture(scope="module")
def face(landmarker: Path) -> FaceMeasurer:
    assert landmarker.is_file()
    return measurer("face")


@pytest.fixture(scope="module")
def astronaut(photos: Mapping[str, Path]) -> Image.Image:
    with Image.open(photos["astronaut.png"]) as picture:
        return picture.convert("RGB")


class Found(msgspec.Struct):
    """What a measurer said of one file; `raised`: what it stopped with."""

    groups: dict[str, list[FacePrediction]]
    notes: list[str]
    attachments: list[Attachment]
    merged: list[Merged]
    reached: list[float]
    raised: str | None = None


def measure(face: FaceMeasurer, path: Path | str, config: Face | None = None, file_type: FileType = "image") -> Found:
    found = Found({}, [], [], [], [])
    media = Media(path=str(path), name="picture", file_type=file_type, md5sum="0" * 32)
    recording = Recording(media, scratch=Path(path).parent, progress=found.reached.append)
    for finding in face.measure(recording, config or Face()):
        match finding:
            case Row(group, prediction):
                assert isinstance(prediction, FacePrediction)
                found.groups.setdefault(group, []).append(prediction)
            case Note(message):
                found.notes.append(message)
            case Attachment():
                found.attachments.append(finding)
            case Merged():
                found.merged.append(finding)
            case other:
                raise AssertionError(other)
    return found


def faces(found: Found) -> list[FacePrediction]:
    return [prediction for group in found.groups.values() for prediction in group]


def box(prediction: FacePrediction) -> tuple[float, float, float, float]:
    return prediction.box.x, prediction.box.y, prediction.box.w, prediction.box.h


def emotions(prediction: FacePrediction) -> dict[str, float]:
    return {score.name: score.score for score in prediction.emotions}


def facs(prediction: FacePrediction) -> dict[str, float]:
    return {score.name: score.score for score in prediction.facs or []}


@pytest.fixture(scope="module")
def five_faces(videos: Mapping[str, Path]) -> Path:
    return videos["multi_face.jpg"]


@pytest.fixture(scope="module")
def talking(videos: Mapping[str, Path]) -> Path:
    return videos["single_face.mp4"]


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return path


# What it finds


def test_it_is_a_measurer_of_pictures_in_a_process_of_its_own(face: FaceMeasurer) -> None:
    assert isinstance(face, Measurer)
    assert face.model == "face"
    given = [one.name for one in face.card.names]
    assert given == [
        *(name for name in EMOTIONS if name in EMOTION_OF_EXPRESSION.values()),
        *(name for name in FACS if name in FACS_GIVEN),
        *(name for name in FACE_DESCRIPTIONS if name in DESCRIPTIONS),
    ]
    figures = " ".join(figure.what for figure in face.card.figures)
    assert [name for name in given if name not in figures] == []  # no name without a figure


@pytest.mark.slow
def test_it_keeps_the_rules_of_a_measurer(photos: Mapping[str, Path], talking: Path) -> None:
    check_measurer(functools.partial(measurer, "face"), media=[photos["astronaut.png"], talking], growth_seconds=5)


def test_a_smiling_face_passes_the_default_threshold_with_joy_on_top(
    face: FaceMeasurer, photos: Mapping[str, Path]
) -> None:
    measured = measure(face, photos["astronaut.png"])
    ((group, (prediction,)),) = measured.groups.items()
    assert group == "unknown"
    assert (prediction.frame, prediction.time) == (0, 0.0)
    assert 0.99 <= prediction.prob <= 1
    assert box(prediction) == pytest.approx(ASTRONAUT_BOX, abs=8)
    assert max(emotions(prediction), key=emotions(prediction).__getitem__) == "Joy"
    assert emotions(prediction)["Joy"] > 0.9
    assert prediction.facs is None
    assert prediction.descriptions is None
    assert measured.notes == []


def test_a_calm_face_is_not_called_joyful(face: FaceMeasurer, photos: Mapping[str, Path]) -> None:
    (prediction,) = faces(measure(face, photos["grace_hopper.jpg"]))
    assert max(emotions(prediction).values()) < 0.3  # mostly neutral, which the vocabulary has no name for
    x, y, w, h = box(prediction)
    assert 150 < x < 200
    assert 110 < y < 160
    assert 160 < w < 210
    assert 180 < h < 230


def test_only_measured_emotions_are_named_in_the_vocabularys_order(
    face: FaceMeasurer, photos: Mapping[str, Path]
) -> None:
    (prediction,) = faces(measure(face, photos["grace_hopper.jpg"]))
    names = [score.name for score in prediction.emotions]
    assert names == [name for name in EMOTIONS if name in EMOTION_OF_EXPRESSION.values()]
    assert names == ["Anger", "Disgust", "Fear", "Joy", "Sadness"]
    assert all(0 <= score.score <= 1 for score in prediction.emotions)
    assert sum(score.score for score in prediction.emotions) < 1


@pytest.mark.parametrize("kind", ["photograph", "noise", "gradient", "flat", "one pixel", "thin line"])
def test_no_face_is_an_empty_answer(face: FaceMeasurer, photos: Mapping[str, Path], tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(7)
    drawn = {
        "noise": Image.fromarray(values.integers(0, 256, (480, 640, 3), np.uint8)),
        "gradient": Image.radial_gradient("L").resize((700, 500)),
        "flat": Image.new("RGB", (300, 300), "pink"),
        "one pixel": Image.new("RGB", (1, 1)),
        "thin line": Image.new("RGB", (4000, 1), "white"),
    }
    path = photos["coffee.png"] if kind == "photograph" else saved(drawn[kind], tmp_path / "drawn.png")
    measured = measure(face, path, Face(min_face_size=0))
    assert measured.groups == {}
    assert measured.notes == []


def test_two_faces_in_one_picture_are_two_people_only_when_asked(
    face: FaceMeasurer, astronaut: Image.Image, photos: Mapping[str, Path], tmp_path: Path
) -> None:
    sheet = Image.new("RGB", (1112, 600), "gray")
    with Image.open(photos["grace_hopper.jpg"]) as hopper:
        sheet.paste(hopper, (0, 0))
    sheet.paste(astronaut, (600, 0))
    path = saved(sheet, tmp_path / "two.png")
    ((group, both),) = measure(face, path).groups.items()
    assert group == "unknown"
    assert len(both) == 2
    groups = measure(face, path, Face(identify_faces=True)).groups
    assert list(groups) == ["face_0", "face_1"]  # from left to right
    assert [len(rows) for rows in groups.values()] == [1, 1]
    assert emotions(groups["face_1"][0])["Joy"] > 0.9


# What is asked of it


def test_a_face_counts_when_its_presence_reaches_the_threshold(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).normal(0, 80, (512, 512, 3))
    grainy = Image.fromarray((np.asarray(astronaut, float) + noise).clip(0, 255).astype(np.uint8))
    path = saved(grainy, tmp_path / "grainy.png")
    (prediction,) = faces(measure(face, path, Face(prob_threshold=0.5)))
    assert 0.5 < prediction.prob < 1
    assert faces(measure(face, path, Face(prob_threshold=prediction.prob)))
    assert not faces(measure(face, path, Face(prob_threshold=math.nextafter(prediction.prob, 1))))


def test_a_covered_face_is_far_below_the_default_threshold(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path
) -> None:
    masked = astronaut.copy()
    masked.paste("gray", (170, 113, 275, 185))  # from the nose down
    path = saved(masked, tmp_path / "masked.png")
    assert faces(measure(face, path)) == []
    assert all(prediction.prob < 0.1 for prediction in faces(measure(face, path, Face(prob_threshold=0.0))))


def test_both_sides_of_the_box_must_reach_the_least_size(face: FaceMeasurer, photos: Mapping[str, Path]) -> None:
    width, height = ASTRONAUT_BOX[2:]
    assert faces(measure(face, photos["astronaut.png"], Face(min_face_size=width - 5)))
    assert not faces(measure(face, photos["astronaut.png"], Face(min_face_size=(width + height) // 2)))


def test_a_small_face_fails_the_default_size_and_is_found_when_asked_for(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path
) -> None:
    small = saved(astronaut.resize((200, 200)), tmp_path / "small.png")
    assert faces(measure(face, small)) == []
    (prediction,) = faces(measure(face, small, Face(min_face_size=30)))
    assert box(prediction) == pytest.approx([side * 200 / 512 for side in ASTRONAUT_BOX], abs=5)


def test_facs_names_the_units_that_are_shown_in_order_and_sees_the_smile(
    face: FaceMeasurer, photos: Mapping[str, Path]
) -> None:
    (smiling,) = faces(measure(face, photos["astronaut.png"], Face(facs={})))
    (calm,) = faces(measure(face, photos["grace_hopper.jpg"], Face(facs={})))
    assert list(facs(smiling)) == [name for name in FACS if name in FACS_GIVEN]
    assert all(0 <= score <= 1 for score in facs(smiling).values())
    assert facs(smiling)["AU12 Lip Corner Puller"] > 0.7
    assert facs(calm)["AU12 Lip Corner Puller"] < 0.3
    assert facs(smiling)["AU25 Lips Part"] > 0.9
    assert facs(calm)["AU25 Lips Part"] < 0.2
    assert smiling.descriptions is None


def test_descriptions_say_the_same_in_common_words(face: FaceMeasurer, photos: Mapping[str, Path]) -> None:
    (smiling,) = faces(measure(face, photos["astronaut.png"], Face(facs={}, descriptions={})))
    assert smiling.descriptions is not None
    assert [score.name for score in smiling.descriptions] == [
        name for name in FACE_DESCRIPTIONS if name in DESCRIPTIONS
    ]
    assert smiling.descriptions["Smile"] == facs(smiling)["AU12 Lip Corner Puller"]
    (plain,) = faces(measure(face, photos["astronaut.png"], Face(descriptions={})))
    assert plain.facs is None


def test_the_mapping_uses_known_names_and_shapes_only() -> None:
    for table in (SHAPES_OF_UNIT, SHAPES_OF_DESCRIPTION):
        shapes = [shape for shapes in table.values() for shape in shapes]
        assert len(set(shapes)) == len(shapes)
        assert set(shapes) <= set(BLENDSHAPES)
    assert set(FACS_GIVEN) <= set(FACS)
    assert set(DESCRIPTIONS) <= set(FACE_DESCRIPTIONS)
    assert set(EMOTION_OF_EXPRESSION.values()) <= set(EMOTIONS)


def test_saved_faces_are_pngs_of_what_is_in_the_box(face: FaceMeasurer, photos: Mapping[str, Path]) -> None:
    found = measure(face, photos["astronaut.png"], Face(save_faces=True, identify_faces=True))
    ((group, (prediction,)),) = found.groups.items()
    (saved_face,) = found.attachments
    assert (saved_face.group, saved_face.name) == (group, "frame=0.png")
    with Image.open(io.BytesIO(saved_face.data)) as picture, Image.open(photos["astronaut.png"]) as whole:
        x, y, w, h = box(prediction)
        assert picture.size == pytest.approx((w, h), abs=2)
        cut = whole.convert("RGB").crop((int(x), int(y), int(x) + picture.width, int(y) + picture.height))
        assert picture.convert("RGB").tobytes() == cut.tobytes()


def test_saved_faces_of_one_frame_have_names_of_their_own(face: FaceMeasurer, five_faces: Path) -> None:
    found = measure(face, five_faces, Face(save_faces=True))
    assert [one.name for one in found.attachments] == ["frame=0.png", *(f"frame=0_{n}.png" for n in (1, 2, 3, 4))]


def test_five_faces_of_one_photo_are_found_and_are_five_people(face: FaceMeasurer, five_faces: Path) -> None:
    found = measure(face, five_faces, Face(identify_faces=True))
    assert list(found.groups) == [f"face_{number}" for number in range(5)]
    assert found.merged == []


def test_a_face_that_fills_the_picture_is_found(face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path) -> None:
    x, y, w, h = ASTRONAUT_BOX
    close = astronaut.crop((x - 5, y - 5, x + w + 5, y + h + 5)).resize((400, 464))
    (prediction,) = faces(measure(face, saved(close, tmp_path / "close.png")))
    assert min(box(prediction)[2:]) > 300


# Videos


def test_rows_of_a_video_come_in_order_of_time_with_the_frames_that_were_asked_for(
    face: FaceMeasurer, talking: Path
) -> None:
    found = measure(face, talking, file_type="video")  # 30 frames a second, 3 of them asked for
    rows = faces(found)
    assert [row.frame for row in rows] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert [row.time for row in rows] == pytest.approx([row.frame / 30 for row in rows])
    assert found.reached == [row.time for row in rows]
    assert list(found.groups) == ["unknown"]


def test_a_person_is_one_id_across_cuts_and_another_person_is_another(
    face: FaceMeasurer, videos: Mapping[str, Path], identity: Path, tmp_path: Path
) -> None:
    assert identity.is_file()
    path = tmp_path / "cut.mp4"
    crying, woman = videos["WolfgangLanger_Pexels.mp4"], videos["single_face.mp4"]
    cut_video(path, [(crying, 0, 1.5), (woman, 0, 1.5), (crying, 14, 15.5)])
    found = measure(face, path, Face(identify_faces=True, fps_pred=2), file_type="video")
    into = {one.group: one.into for one in found.merged}
    who = {row.frame: into.get(group, group) for group, rows in found.groups.items() for row in rows}
    assert [who[frame] for frame in sorted(who)] == ["face_0"] * 3 + ["face_1"] * 3 + ["face_0"] * 3
    assert found.notes == []


def test_without_the_recognition_weights_faces_are_followed_by_place_and_that_is_said(
    landmarker: Path, talking: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(carried.MODEL_DIR, str(landmarker.parent))
    found = measure(measurer("face"), talking, Face(identify_faces=True), file_type="video")
    assert list(found.groups) == ["face_0"]
    (note,) = found.notes
    assert "weights --fetch" in note


def test_a_video_damaged_further_on_gives_its_rows_up_to_there(
    face: FaceMeasurer, talking: Path, tmp_path: Path
) -> None:
    content = bytearray(talking.read_bytes())
    content[100_000:103_000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    media = Media(path=str(path), name="damaged.mp4", file_type="video", md5sum="0" * 32)
    rows: list[object] = []
    with pytest.raises(Unmeasurable, match="damaged"):
        rows.extend(face.measure(Recording(media, scratch=tmp_path), Face()))  # keeps what came before
    assert len(rows) >= 7


# What it opens


def test_every_exif_orientation_gives_the_same_face(
    face: FaceMeasurer, photos: Mapping[str, Path], tmp_path: Path
) -> None:
    with Image.open(photos["grace_hopper.jpg"]) as picture:  # not square: a swap of the sides would show
        upright = picture.convert("RGB")
    # How the camera's sensor saw what orientation n turns upright again.
    stored: dict[int, Image.Image] = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }
    (expected,) = faces(measure(face, saved(upright, tmp_path / "plain.png")))
    for orientation, seen in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("turned.jpg", "turned.png", "turned.webp", "turned.tif"):
            path = saved(seen, tmp_path / name, exif=exif)
            opened = open_picture(str(path))
            assert (opened.width, opened.height) == upright.size, (orientation, name)
        (prediction,) = faces(measure(face, tmp_path / "turned.jpg"))
        assert box(prediction) == pytest.approx(box(expected), abs=4), orientation


def test_boxes_of_a_large_picture_are_in_its_own_pixels(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path
) -> None:
    wall = Image.new("RGB", (6000, 4000), "gray")
    wall.paste(astronaut.resize((1536, 1536)), (4000, 2000))
    expected = [4000 + 3 * ASTRONAUT_BOX[0], 2000 + 3 * ASTRONAUT_BOX[1], 3 * ASTRONAUT_BOX[2], 3 * ASTRONAUT_BOX[3]]
    for name in ("wall.jpg", "wall.png"):
        path = saved(wall, tmp_path / name)
        assert max(open_picture(str(path)).image.size) <= WORKING_SIDE
        (prediction,) = faces(measure(face, path))
        assert box(prediction) == pytest.approx(expected, abs=30)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "I;16", "F", "RGBA"])
def test_every_kind_of_pixel_is_read(face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path, mode: str) -> None:
    gray = np.asarray(astronaut.convert("L"))
    if mode == "I;16":
        picture = Image.fromarray(gray.astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(gray.astype(np.float32))
    else:
        picture = astronaut.convert(mode)
    path = saved(picture, tmp_path / ("picture.tif" if mode in ("F", "CMYK") else "picture.png"))
    assert len(faces(measure(face, path, Face(prob_threshold=0.5)))) == 1


def test_only_the_first_frame_of_an_animation_is_measured_and_that_is_said(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path
) -> None:
    blank = Image.new("RGB", astronaut.size, "gray")
    for name in ("moving.gif", "moving.png", "moving.webp"):
        path = saved(astronaut, tmp_path / name, save_all=True, append_images=[blank, blank])
        measured = measure(face, path)
        assert len(faces(measured)) == 1
        assert measured.notes == [FIRST_FRAME]


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_pictures_of_phones_are_read_and_taken_for_pictures(
    face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path, kind: str
) -> None:
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path = saved(astronaut, tmp_path / f"phone.{kind}")
    assert file_type(path, "upload") == "image"
    (prediction,) = faces(measure(face, path))
    assert box(prediction) == pytest.approx(ASTRONAUT_BOX, abs=8)


def test_a_server_without_heic_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(Unmeasurable, match="convert it to JPEG or PNG, or install pillow-heif"):
        open_picture(str(path))


# What it refuses


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "no picture of a kind that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no picture of a kind that is read"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "no picture of a kind that is read"),
    ],
    ids=["empty", "text", "eps", "wav"],
)
def test_what_is_no_readable_picture_is_refused(
    face: FaceMeasurer, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(Unmeasurable, match=reason):
        measure(face, path)


def test_reasons_say_nothing_of_where_files_lie_on_the_server(face: FaceMeasurer, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    for content in (b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM", b"II*\0\x08\0\0\0"):
        path.write_bytes(content)
        with pytest.raises(Unmeasurable) as caught:
            measure(face, path)
        assert str(tmp_path) not in str(caught.value)


def test_what_is_transparent_is_seen_as_white(tmp_path: Path) -> None:
    clear = saved(Image.new("RGBA", (20, 20), (200, 0, 0, 0)), tmp_path / "clear.png")
    assert open_picture(str(clear)).image.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.gif", "cut.webp", "cut.bmp", "cut.tif"])
def test_a_picture_cut_short_is_refused(face: FaceMeasurer, astronaut: Image.Image, tmp_path: Path, name: str) -> None:
    path = saved(astronaut, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Unmeasurable, match="damaged or cut short"):
        measure(face, path)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims these sides."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(10_000, 10_000), (50_000, 50_000)])
@pytest.mark.parametrize("pillow_checks", [True, False])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    face: FaceMeasurer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: tuple[int, int], *, pillow_checks: bool
) -> None:
    if not pillow_checks:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*sides))
    with pytest.raises(Unmeasurable, match="too large"):
        measure(face, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    kept=st.floats(0.02, 1),
)
def test_damaged_bytes_never_raise_anything_else(
    tmp_path: Path, kind: str, places: list[tuple[float, int]], kept: float
) -> None:
    whole = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(whole, kind)
    content = bytearray(whole.getvalue())
    for place, value in places:
        content[int(place * len(content))] = value
    path = tmp_path / "damaged"
    path.write_bytes(content[: max(1, int(kept * len(content)))])
    with contextlib.suppress(Unmeasurable):
        assert open_picture(str(path)).image.mode == "RGB"
