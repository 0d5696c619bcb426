"""Videos: read with their times, written so that they can be played and hold every frame."""

from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("av")

import av
from predict_commands import write_video

from yolor_d2.files.images import ImageReadError
from yolor_d2.prediction.sources import expand
from yolor_d2.prediction.video_reader import Frame, Mark, OpenCVVideo, PyAVVideo
from yolor_d2.prediction.video_writer import VideoWriter, join, remove_parts


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


TIME_BASE = Fraction(1, 90_000)


def source(path):
    (found,) = expand([path])
    return found


@pytest.fixture
def times():
    """Of a video of variable frame rate, in 1/12800 s."""
    steps = np.random.default_rng(0).integers(200, 2000, size=60)
    return [0, *np.cumsum(steps)[:-1].tolist()]


@pytest.mark.parametrize("kind", [PyAVVideo, OpenCVVideo])
def test_frames_have_their_numbers_and_times(tmp_path, times, kind):
    path = write_video(tmp_path / "video.mp4", 60, times=times)
    found = list(kind(source(path)).frames())
    assert [frame.number for frame in found] == list(range(60))
    expected = np.array(times) / 12800
    np.testing.assert_allclose([frame.seconds for frame in found], expected, atol=1e-3)
    assert found[0].pixels.shape == (48, 64, 3)
    # Red rises by 7 with each frame.
    assert found[20].pixels[45, 50, 0] == pytest.approx(140, abs=6)
    strided = list(kind(source(path)).frames(7))
    assert [frame.number for frame in strided] == list(range(0, 60, 7))
    assert (strided[2].pixels == found[14].pixels).all()


@pytest.mark.parametrize("suffix", ["mp4", "m4v", "mov", "mkv", "avi", "flv", "ts", "mpg", "webm"])
def test_every_container_is_read_and_gone_on_with(tmp_path, suffix):
    codec = {"mpg": "mpeg1video", "avi": "mpeg4", "webm": "libvpx"}.get(suffix, "libx264")
    path = tmp_path / f"video.{suffix}"
    with av.open(path, "w") as video:
        stream = video.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(60):
            pixels = np.full((48, 64, 3), i * 4, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())
    video = PyAVVideo(source(path))
    whole = list(video.frames())
    assert len(whole) == 60 and whole[0].seconds == 0
    for last in (0, 29, 58):
        mark = Mark(last, whole[last].time, video.origin)
        rest = list(PyAVVideo(source(path)).frames(after=mark))
        assert [x.number for x in rest] == list(range(last + 1, 60))
        for one, other in zip(rest, whole[last + 1 :]):
            assert one.time == other.time and (one.pixels == other.pixels).all()


def turned(path, matrix):
    """Write a rotation into the header of a video, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0
    data[at : at + 36] = b"".join(int(v).to_bytes(4, "big", signed=True) for v in matrix)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [PyAVVideo, OpenCVVideo])
def test_videos_of_turned_telephones_are_upright(tmp_path, kind):
    path = write_video(tmp_path / "video.mp4", 3)
    before = next(iter(PyAVVideo(source(path)).frames())).pixels
    one = 1 << 16
    # By 90 degrees clockwise: x' = -y, y' = x.
    turned(path, (0, one, 0, -one, 0, 0, 48 << 16, 0, 1 << 30))
    after = next(iter(kind(source(path)).frames())).pixels
    assert after.shape == (64, 48, 3)
    assert np.abs(after.astype(int) - np.rot90(before, -1)).max() < 12


def test_a_video_has_every_frame_at_its_time_in_every_part(tmp_path, times):
    target = tmp_path / "out" / "video.mp4"
    writer = VideoWriter(target, TIME_BASE, Fraction(25))
    stamps = [t * 90_000 // 12_800 for t in times]
    for i, stamp in enumerate(stamps):
        pixels = np.full((49, 65, 3), (4 * i, 100, 200 - 2 * i), np.uint8)  # odd sides
        writer.add(Frame(i, stamp, 0.0, pixels), pixels)
        if i % 13 == 12:
            writer.end_part()
    assert len(list(writer.folder.iterdir())) == 4
    writer.finish()
    remove_parts(target)
    assert list(target.parent.iterdir()) == [target]
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # browsers begin before they have all of it
    with av.open(target) as video:
        stream = video.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 60)
        assert (context.width, context.height) == (66, 50)
    found = list(PyAVVideo(source(target)).frames())
    assert [frame.time for frame in found] == stamps
    for i in (0, 12, 13, 59):
        colour = found[i].pixels[20, 20].astype(int)
        assert np.abs(colour - (4 * i, 100, 200 - 2 * i)).max() <= 6


def test_what_interrupted_writing_left_is_cleared_and_nothing_else(tmp_path):
    target = tmp_path / "video.mp4"
    pixels = np.zeros((48, 64, 3), np.uint8)
    writer = VideoWriter(target, TIME_BASE, Fraction(25))
    for i in range(3):
        writer.add(Frame(i, i * 3600, 0.0, pixels), pixels)
        writer.end_part()
    (writer.folder / "000003_10800_1.mp4.tmp").write_bytes(b"half")
    (writer.folder / "mine.txt").write_text("mine")
    writer = VideoWriter(target, TIME_BASE, Fraction(25), parts=2)
    assert sorted(path.name for path in writer.folder.iterdir()) == [
        "000000_0_1.mp4",
        "000001_3600_1.mp4",
        "mine.txt",
    ]
    writer.finish()
    remove_parts(target)
    assert (writer.folder / "mine.txt").exists()
    assert len(list(PyAVVideo(source(target)).frames())) == 2
    with pytest.raises(FileNotFoundError, match="has 0 parts of the video, expected 2"):
        VideoWriter(target, TIME_BASE, Fraction(25), parts=2)


def test_a_video_that_was_not_written_whole_is_an_error(tmp_path, monkeypatch):
    target = tmp_path / "video.mp4"
    pixels = np.zeros((48, 64, 3), np.uint8)
    writer = VideoWriter(target, TIME_BASE, Fraction(25))
    for i in range(5):
        writer.add(Frame(i, i * 3600, 0.0, pixels), pixels)
    real = join
    monkeypatch.setattr("yolor_d2.prediction.video_writer.join", lambda *given: real(*given) + 1)
    with pytest.raises(OSError, match="was written with 5 frames, expected 6"):
        writer.finish()
    assert not target.exists()


def test_a_frame_of_another_size_is_scaled_and_told_once(tmp_path, caplog):
    writer = VideoWriter(tmp_path / "video.mp4", TIME_BASE, Fraction(25))
    for i, size in enumerate([(48, 64), (96, 128), (24, 32)]):
        pixels = np.full((*size, 3), 100, np.uint8)
        writer.add(Frame(i, i * 3600, 0.0, pixels), pixels)
    writer.finish()
    assert caplog.text.count("scaled to 64 x 48") == 1
    assert len(list(PyAVVideo(source(tmp_path / "video.mp4")).frames())) == 3


@pytest.mark.parametrize("kind", [PyAVVideo, OpenCVVideo])
def test_what_is_no_video_is_named(tmp_path, kind):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(ImageReadError, match=r"cannot read video '.*video.mp4'"):
        kind(source(path))


def test_a_damaged_video_gives_what_can_be_read_and_says_so(tmp_path, caplog):
    path = tmp_path / "video.ts"
    write_video(path, 100)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 188 * 20] = bytes(188 * 20)
    path.write_bytes(data)
    found = list(PyAVVideo(source(path)).frames())
    assert 50 < len(found) <= 100


def test_videos_are_read_from_addresses(tmp_path):
    write_video(tmp_path / "video.mkv", 20)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (video,) = expand([f"http://127.0.0.1:{server.server_port}/video.mkv"])
        assert len(list(PyAVVideo(video).frames())) == 20
        (video,) = expand([f"http://me:secret@127.0.0.1:{server.server_port}/none.mkv"])
        with pytest.raises(ImageReadError, match="cannot read video") as error:
            PyAVVideo(video)
        assert "secret" not in str(error.value)
        server.shutdown()


def test_a_mark_of_another_video_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mp4", 10)
    with pytest.raises(ImageReadError, match="has no frame 20 any more"):
        list(PyAVVideo(source(path)).frames(after=Mark(20, 10_240, 0)))
