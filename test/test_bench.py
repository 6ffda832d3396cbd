from __future__ import annotations

import json
import math
import shutil
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scripted import placed_hand, two_hands

from a2p_ros import cli
from a2p_ros.commands import bench
from a2p_ros.evaluation.bench_summary import HandsEvent, newest_share, summarise
from a2p_ros.media.video import VideoWriter
from a2p_ros.types import Side


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture
def video(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 20.0) as writer:
        for number in range(6):
            writer.write(np.full((90, 160, 3), 30 * number, np.uint8))
    return tmp_path / "clip.mp4"


def test_a_stream_begins_again_with_stamps_that_go_on(video) -> None:
    stamps = [frame.stamp for frame in islice(bench.stream(str(video)), 14)]
    assert np.diff(stamps) == pytest.approx(np.full(13, 0.05), abs=2e-3)


def test_a_joined_stream_has_twice_the_width_and_no_camera(video) -> None:
    frame = next(bench.stream(str(video), joined=True))
    assert frame.image.shape == (90, 320, 3) and frame.camera is None


def test_pipeline_bench_reports_stages_and_rates(video, capsys, monkeypatch) -> None:
    hand = placed_hand(Side.RIGHT, (0.1, 0, 0.5))[0]

    class Timed:
        model_id = "scripted"

        def __init__(self, config) -> None:
            pass

        def warm_up(self) -> None:
            pass

        def report(self) -> dict[str, str]:
            return {"detector": "d on cpu", "landmarks": "l on cpu"}

        def __call__(self, image, camera, stamp):
            answer = two_hands(None, hand, stamp)
            object.__setattr__(answer, "timings", {"detect": 0.004, "regress": 0.002})
            return answer

    monkeypatch.setattr("a2p_ros.pipeline.TwoHandPipeline", Timed)
    assert cli.main(["bench", "pipeline", str(video), "--frames", "9", "--warm-up", "2", "--no-peer", "--json"]) == 0
    result = last_json(capsys)
    assert {"fps", "latency_ms", "stages", "mediapipe_ms", "device", "provider", "rss_mb"} <= set(result)
    assert result["frames"] == 9 and result["hands_per_frame"] == 1.0 and result["device"] == "cpu"
    assert result["stages"]["detect"] == {"p50": 4.0, "p99": 4.0}
    assert result["mediapipe_ms"] == {"p50": None, "p99": None}
    assert result["rss_mb"] > 20


def test_the_real_pipeline_bench_runs_beside_mediapipe(capsys) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe's Python is not installed: no peer to run beside")
    assert cli.main(["bench", "pipeline", "--frames", "6", "--warm-up", "3", "--json"]) == 0
    result = last_json(capsys)
    assert result["mediapipe_ms"]["p50"] > 0 and result["latency_ms"]["p50"] > 0
    assert {"detect", "landmarks", "regress", "place", "smooth"} <= set(result["stages"])


def made_run(takes: range, work: float = 0.02, transport: float = 0.005) -> dict:
    """A camera at 30 Hz; message i is about image ``takes[i]`` and its work began when image i had just come."""
    stamps = [round((1000 + n / 30) * 1e9) for n in range(40)]
    images = [(stamp, stamp * 1e-9 + 0.002) for stamp in stamps]
    began = {stamps[taken]: 1000 + now / 30 + transport for now, taken in enumerate(takes)}
    hands = [HandsEvent(stamp, begun + work, False, True) for stamp, begun in began.items()]
    return summarise(hands, images, began, 999.0, 1002.0)


def test_the_summary_counts_frames_rate_and_latency() -> None:
    result = made_run(range(20))
    assert result["newest_frame_share"] == 1.0 and result["frames_out"] == 20 and result["frames_in"] == 40
    assert result["latency_ms"]["p50"] == pytest.approx(25.0, abs=0.01)
    assert result["fps"] == pytest.approx(30.0, rel=1e-3) and result["right_valid"] == 20


def test_work_begun_after_a_newer_image_was_there_is_not_on_the_newest() -> None:
    stamps = [n * 33_000_000 for n in range(21)]
    on_time = [(stamp, stamp * 1e-9 + 0.005) for stamp in stamps[:15]]
    late = [(stamps[n], stamps[n + 1] * 1e-9 + 0.006) for n in range(15, 20)]
    assert newest_share(on_time + late, stamps) == pytest.approx(0.75)
    assert newest_share(on_time, stamps) == 1.0
    just_before = [(stamps[n], stamps[n + 1] * 1e-9 + 0.004) for n in range(15, 20)]
    assert newest_share(on_time + just_before, stamps) == 1.0, "the newer one was still on its way"


def test_nothing_received_is_nan_and_not_a_crash() -> None:
    result = summarise([], [], {}, 0.0, 1.0)
    assert result["frames_out"] == 0 and math.isnan(result["newest_frame_share"])
    assert math.isnan(result["latency_ms"]["p50"])


def test_ros_bench_measures_three_processes(capsys) -> None:
    pytest.importorskip("rclpy", reason="no ROS here: the nodes of the benchmark cannot run")
    pytest.importorskip("a2p_ros.msg", reason="the messages of a2p_ros are not built")
    assert cli.main(["bench", "ros", "--seconds", "2", "--fps", "10", "--no-peer", "--json"]) == 0
    result = last_json(capsys)
    assert {"frames_in", "frames_out", "latency_ms", "newest_frame_share", "cpu_percent", "rss_mb"} <= set(result)
    assert 3 <= result["frames_in"] <= 30 and 0 < result["frames_out"] <= result["frames_in"] + 2
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert 0 < result["newest_frame_share"] <= 1
    assert result["rss_mb"] > 100 and result["cpu_percent"] > 1


@pytest.mark.parametrize("arguments", [["pipeline", "--frames", "0"], ["ros", "--seconds", "0"]])
def test_bench_refuses_empty_measurements(arguments, capsys) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert "expected 1" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["ffmpeg", None], ids=["ffmpeg", "opencv"])
@pytest.mark.parametrize("size", [(91, 161), (64, 64)])
def test_videos_of_any_size_read_back(tmp_path, monkeypatch, program, size) -> None:
    found = shutil.which("ffmpeg")
    if program and found is None:
        pytest.skip("no ffmpeg on this machine")
    monkeypatch.setattr("a2p_ros.media.video.shutil", SimpleNamespace(which=lambda _: found if program else None))
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 12.5) as writer:
        for level in (40, 120, 200):
            writer.write(np.full((*size, 3), (level, 0, 0), np.uint8))
        writer.write(np.full((33, 47, 3), (250, 0, 0), np.uint8))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert [f.shape for f in frames] == [(size[0] // 2 * 2, size[1] // 2 * 2, 3)] * 4
    assert [int(round(f[..., 2].mean(), -1)) for f in frames] == pytest.approx([40, 120, 200, 250], abs=20)


def test_a_video_that_cannot_be_written_is_an_error(tmp_path) -> None:
    from a2p_ros.errors import SourceError

    with pytest.raises(SourceError, match=r"v\.mp4"), VideoWriter(tmp_path / "no folder" / "v.mp4", 25.0) as writer:
        for _ in range(50):
            writer.write(np.zeros((480, 640, 3), np.uint8))
