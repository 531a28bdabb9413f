"""Video: the frame that was asked for, packets copied to the pixel, errors that name the frame."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from recordings import picture

from regrip.datasets import video
from regrip.datasets.frames import psnr
from regrip.datasets.ledger import DataError
from regrip.datasets.video import DepthCode, VideoFrames, close_videos, probe_video
from regrip.datasets.video_write import UncopyableError, copy_clips, encode_video, equal_frames

SHAPE = (48, 64, 3)


def numbered(count: int) -> list[np.ndarray]:
    """Frames that are told apart by their brightness, also after a lossy codec."""
    return [np.full(SHAPE, 10 + 8 * i, np.uint8) for i in range(count)]


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 10) / 8)


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264", "libx265"])
@pytest.mark.parametrize("gop", [2, 12])
def test_every_frame_is_found_in_any_order(tmp_path: Path, codec: str, gop: int) -> None:
    assert encode_video(numbered(25), tmp_path / "a.mp4", 20, codec, gop=gop) == 25
    frames = VideoFrames(tmp_path / "a.mp4", 25, 20, SHAPE)
    assert [number_of(image) for image in frames] == list(range(25))
    for index in np.random.default_rng(0).permutation(25):
        assert number_of(frames[int(index)]) == index


def test_a_clip_inside_a_file(tmp_path: Path) -> None:
    encode_video(numbered(20), tmp_path / "a.mp4", 20, "libx264", gop=7)
    frames = VideoFrames(tmp_path / "a.mp4", 6, 20, SHAPE, start_s=9 / 20)
    assert [number_of(image) for image in frames] == [9, 10, 11, 12, 13, 14]
    assert [number_of(frames[i]) for i in (5, 0, 3)] == [14, 9, 12]
    with pytest.raises(IndexError):
        frames[6]


def test_quality_is_what_the_codec_gives(tmp_path: Path) -> None:
    images = [picture(i, 64, 96) for i in range(10)]
    encode_video(images, tmp_path / "a.mp4", 20, "libx264", crf=18)
    got = list(VideoFrames(tmp_path / "a.mp4", 10, 20, (64, 96, 3)))
    assert min(psnr(a, b) for a, b in zip(images, got, strict=True)) > 27


def test_rates_that_are_no_whole_number(tmp_path: Path) -> None:
    encode_video(numbered(30), tmp_path / "a.mp4", 29.97, "libx264", gop=10)
    assert [number_of(i) for i in VideoFrames(tmp_path / "a.mp4", 30, 29.97, SHAPE)] == list(range(30))


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_joining_and_cutting_copies_packets(tmp_path: Path, codec: str) -> None:
    encode_video(numbered(9), tmp_path / "a.mp4", 20, codec)
    encode_video(reversed(numbered(7)), tmp_path / "b.mp4", 20, codec)
    a = VideoFrames(tmp_path / "a.mp4", 9, 20, SHAPE)
    b = VideoFrames(tmp_path / "b.mp4", 7, 20, SHAPE)
    copy_clips([a, b, a], tmp_path / "c.mp4", 20)
    assert probe_video(tmp_path / "c.mp4").frames == 25
    parts = [
        VideoFrames(tmp_path / "c.mp4", n, 20, SHAPE, start_s=s / 20) for s, n in ((0, 9), (9, 7), (16, 9))
    ]
    for part, want in zip(parts, (a, b, a), strict=True):
        assert equal_frames(part, want)
    copy_clips([parts[1]], tmp_path / "d.mp4", 20)
    assert equal_frames(VideoFrames(tmp_path / "d.mp4", 7, 20, SHAPE), b)


def test_a_clip_that_cannot_be_copied_says_why(tmp_path: Path) -> None:
    encode_video(numbered(20), tmp_path / "a.mp4", 20, "libx264", gop=20)
    with pytest.raises(UncopyableError, match="keyframe"):
        copy_clips([VideoFrames(tmp_path / "a.mp4", 5, 20, SHAPE, start_s=3 / 20)], tmp_path / "b.mp4", 20)
    with pytest.raises(UncopyableError, match="fewer frames"):
        copy_clips([VideoFrames(tmp_path / "a.mp4", 25, 20, SHAPE)], tmp_path / "b.mp4", 20)
    assert not (tmp_path / "b.mp4").exists()


def test_a_video_that_is_too_short_names_the_frame(tmp_path: Path) -> None:
    encode_video(numbered(5), tmp_path / "a.mp4", 20, "libx264")
    frames = VideoFrames(tmp_path / "a.mp4", 8, 20, SHAPE, episode=3, key="observation.images.front")
    assert number_of(frames[4]) == 4
    for get in (lambda: frames[6], lambda: list(frames)):
        with pytest.raises(DataError, match="ends before") as error:
            get()
        assert error.value.episode == 3
        assert error.value.key == "observation.images.front"
        assert error.value.frame in (5, 6)


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    encode_video(numbered(3), tmp_path / "a.mp4", 20, "libx264")
    with pytest.raises(DataError, match="48 x 64"):
        VideoFrames(tmp_path / "a.mp4", 3, 20, (24, 24, 3))[1]


def test_what_cannot_be_encoded_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for images, words in (
        ([np.zeros((47, 64, 3), np.uint8)], "even"),
        ([], "no frames"),
        ([np.zeros(SHAPE, np.uint8), np.zeros((24, 24, 3), np.uint8)], "one size"),
    ):
        with pytest.raises(DataError, match=words):
            encode_video(images, path, 20, "libx264")
        assert not path.exists()
    with pytest.raises(DataError, match="no encoder"):
        encode_video(numbered(1), path, 20, "betamax")


def test_open_containers_are_few_and_follow_their_file(tmp_path: Path) -> None:
    for i in range(video.MAX_OPEN + 3):
        encode_video(numbered(2), tmp_path / f"{i}.mp4", 20, "libx264")
        VideoFrames(tmp_path / f"{i}.mp4", 2, 20, SHAPE)[0]
    assert len(video._idle) == video.MAX_OPEN
    encode_video(numbered(9)[5:], tmp_path / "0.mp4", 20, "libx264")
    assert number_of(VideoFrames(tmp_path / "0.mp4", 2, 20, SHAPE)[0]) == 5
    close_videos()
    assert not video._idle


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_worker_reads_for_itself(tmp_path: Path) -> None:
    encode_video(numbered(12), tmp_path / "a.mp4", 20, "libx264")
    frames = pickle.loads(pickle.dumps(VideoFrames(tmp_path / "a.mp4", 12, 20, SHAPE)))
    assert number_of(frames[3]) == 3
    child = os.fork()
    if not child:
        os._exit(number_of(frames[7]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert number_of(frames[4]) == 4


def test_a_playlist_that_calls_itself_mp4_is_not_followed(tmp_path: Path) -> None:
    encode_video(numbered(3), tmp_path / "real.mp4", 20, "libx264")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    with pytest.raises(DataError):
        VideoFrames(tmp_path / "a.mp4", 3, 20, SHAPE)[0]


def test_damaged_files_end_in_an_error_or_in_frames(tmp_path: Path) -> None:
    encode_video(numbered(6), tmp_path / "a.mp4", 20, "libx264")
    whole = (tmp_path / "a.mp4").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "b.mp4"
    for turn in range(int(os.environ.get("REGRIP_MUTATIONS", "150"))):
        data = bytearray(whole)
        if turn % 3 == 0:
            data = data[: rng.integers(0, len(data))]
        else:
            for _ in range(rng.integers(1, 9)):
                data[rng.integers(0, len(data))] = rng.integers(0, 256)
        path.write_bytes(data)
        frames = VideoFrames(path, 6, 20, SHAPE)
        for get in (lambda f=frames: list(f), lambda f=frames: f[4]):
            with contextlib.suppress(DataError):
                get()


def test_depth_codes_follow_the_formula() -> None:
    code = DepthCode()
    # (ln(1 + 3.5) - ln(3.51)) / (ln(13.5) - ln(3.51)) * 4095, by hand: 0.24846 / 1.34706 * 4095 = 755.3
    assert code.encode(np.array([1.0]))[0] == 755
    np.testing.assert_allclose(code.decode(np.array([0, 4095], np.uint16)), [0.01, 10.0], rtol=1e-6)
    every = np.arange(4096, dtype=np.uint16)
    np.testing.assert_array_equal(code.encode(code.decode(every)), every)
    assert DepthCode(unit="mm").decode(np.array([755], np.uint16))[0] == pytest.approx(1000, abs=2)


def test_depth_video_is_read(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 4096, (4, 32, 48)).astype(np.uint16)
    write_depth(tmp_path / "a.mp4", codes)
    frames = VideoFrames(tmp_path / "a.mp4", 4, 20, (32, 48), depth=DepthCode())
    np.testing.assert_array_equal(np.stack(list(frames)), DepthCode().decode(codes))
    assert frames[2].dtype == np.float32


def write_depth(path: Path, codes: np.ndarray) -> None:
    """As LeRobot 0.6 writes depth: lossless HEVC of 12 bits."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", 20, options={"x265-params": "lossless=1:log-level=none:pools=1"})
        stream.pix_fmt, stream.width, stream.height = "gray12le", codes.shape[2], codes.shape[1]
        for index, image in enumerate(codes):
            frame = av.VideoFrame(codes.shape[2], codes.shape[1], "gray12le")
            padded = np.zeros((codes.shape[1], frame.planes[0].line_size // 2), np.uint16)
            padded[:, : codes.shape[2]] = image
            frame.planes[0].update(padded.tobytes())
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
