"""What a user may name as an input, and where what is written of it goes."""

from pathlib import Path

import pytest

from yolor_d2.prediction.sources import Source, expand, is_video_content, kind_of

TS = (b"\x47" + bytes(187)) * 3


def touch(*paths: Path, content: bytes = b"") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def summary(sources: list[Source]) -> list[tuple[str, str]]:
    return [(source.kind, str(source.place)) for source in sources]


def test_a_folder_stands_for_its_images_and_videos_with_their_subfolders(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "x/a.JPG", tmp_path / "x/y/a.mkv", tmp_path / "b.flv")
    touch(tmp_path / "labels.txt", tmp_path / "code.ts", tmp_path / "unknown")
    touch(tmp_path / "stream.ts", tmp_path / "no_suffix", content=TS)
    assert summary(expand([tmp_path])) == [
        ("image", "a"),
        ("video", "b"),
        ("video", "no_suffix"),
        ("video", "stream"),
        ("image", "x/a"),
        ("video", "x/y/a"),
    ]


def test_inputs_of_one_name_get_places_of_their_own(tmp_path):
    files = [tmp_path / name for name in ("p/a.jpg", "q/a.jpg", "q/a.png", "r/A.jpg", "q/a.mp4")]
    touch(*files)
    assert summary(expand(files)) == [
        ("image", "a"),
        ("image", "a_2"),
        ("image", "a_3"),
        ("image", "A_4"),
        ("video", "a"),  # .mp4 beside .jpg
    ]


def test_patterns_mirror_what_is_below_their_fixed_part(tmp_path):
    touch(tmp_path / "a/1/x.jpg", tmp_path / "b/1/x.jpg")
    assert summary(expand([str(tmp_path / "*/1/*.jpg")])) == [
        ("image", "a/1/x"),
        ("image", "b/1/x"),
    ]


def test_addresses_stay_as_they_are_and_lose_their_passwords_in_what_is_written():
    live, file = expand(["rtsp://me:secret@cam.local:554/one", "https://host/videos/two.mp4?x=1"])
    assert live.name == "rtsp://me:secret@cam.local:554/one" and live.kind == "live"
    assert live.shown == "rtsp://cam.local:554/one" and str(live.place) == "cam.local_one"
    assert file.name == file.shown == "https://host/videos/two.mp4?x=1" and file.kind == "video"
    assert "secret" not in str(live.place)


def test_the_address_of_an_image_is_refused():
    with pytest.raises(ValueError, match=r"'https://host/a\.jpg' is the address of an image"):
        expand(["https://me:secret@host/a.jpg"])


def test_numbers_are_cameras_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expand(["0"])[0].is_camera
    touch(tmp_path / "0")
    assert expand(["0"])[0].kind == "image"


@pytest.mark.parametrize("name", ["none.jpg", "none/*.jpg"])
def test_what_is_not_there_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="--input: no such file or folder"):
        expand([str(tmp_path / name)])


def test_a_folder_without_images_is_named(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no images in .*, and no videos"):
        expand([tmp_path])


@pytest.mark.parametrize(
    ("start", "is_video"),
    [
        (b"\0\0\0\x20ftypisom", True),
        (b"\0\0\0\x20ftypavif", False),
        (b"\0\0\0\x20ftypheic", False),
        (b"RIFF\0\0\0\0AVI LIST", True),
        (b"RIFF\0\0\0\0WEBPVP8 ", False),
        (b"\x1aE\xdf\xa3", True),
        (TS, True),
        ((b"\0\0\0\0\x47" + bytes(187)) * 3, True),  # .m2ts
        (TS[:188], False),
        (b"Good morning" * 40, False),
        (b"", False),
    ],
)
def test_videos_are_known_by_their_first_bytes(start, is_video):
    assert is_video_content(start[:400]) == is_video


def test_a_file_of_unknown_kind_is_left_to_the_reader_of_images(tmp_path):
    touch(tmp_path / "photo", content=b"\x89PNG")
    assert kind_of(tmp_path / "photo", "image") == "image"
    assert kind_of(tmp_path / "photo", None) is None
