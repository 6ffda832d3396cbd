from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Browser, find_chromium
from scripted import HEIGHT, WIDTH, placed_hand

from a2p_ros.errors import SourceError
from a2p_ros.hand import load_hand_models
from a2p_ros.types import Pair, Side
from a2p_ros.viewer import HandViewer, ViewerHand, ViewerStats, frame_hands, panel_text

# OpenCV's hues (half degrees) of HAND_COLOURS: shading changes value, not hue.
BLUE, ORANGE = 107, 15
#: The panel with its blue buttons begins at the right of this [px].
SCENE_WIDTH = 940


def viewer_hand(side: Side, wrist: tuple[float, float, float]) -> ViewerHand:
    hand, vertices = placed_hand(side, wrist)
    return ViewerHand(hand.joints, 0.9, vertices, load_hand_models()[side].faces.numpy())


@pytest.fixture(scope="module")
def hands() -> Pair[ViewerHand | None]:
    return Pair(viewer_hand(Side.LEFT, (-0.14, 0.1, 0.5)), viewer_hand(Side.RIGHT, (0.14, 0.1, 0.45)))


@pytest.fixture
def viewer():
    with HandViewer(port=free_port()) as made:
        yield made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pixels_of(picture: np.ndarray, hue: int) -> int:
    """How many saturated pixels of the scene have about that hue."""
    h, s, v = cv2.split(cv2.cvtColor(picture[:, :SCENE_WIDTH], cv2.COLOR_RGB2HSV))
    return int(((np.abs(h.astype(int) - hue) <= 7) & (s > 130) & (v > 90)).sum())


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine (apt install chromium)")
def test_both_hands_are_seen_in_a_browser_and_a_lost_one_vanishes(viewer, hands, tmp_path) -> None:
    viewer.show_image(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), 0.6)
    viewer.show_hands(hands, ViewerStats(rate=29.5, latency=0.031, frames=7, model_id="scripted"))
    with Browser(tmp_path) as browser:
        browser.open(viewer.url)
        browser.until(lambda: "29.5 Hz" in browser.text(), "the panel")
        assert "31 ms" in browser.text() and "scripted" in browser.text()

        def seen() -> tuple[int, int]:
            browser.dismiss_notices()
            picture = browser.screenshot()
            if os.environ.get("A2P_SCREENSHOT"):
                cv2.imwrite(os.environ["A2P_SCREENSHOT"], cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            return pixels_of(picture, BLUE), pixels_of(picture, ORANGE)

        browser.until(lambda: min(seen()) > 4000, "both hands on the screen")
        viewer.show_hands(Pair(None, hands.right), ViewerStats(rate=29.5))
        browser.until(lambda: seen()[0] < 50, "the left hand's vanishing")
        assert seen()[1] > 4000
        viewer.show_hands(Pair(hands.left, None), ViewerStats(rate=29.5))
        browser.until(lambda: seen()[0] > 4000 and seen()[1] < 50, "the left hand instead of the right")


def test_it_listens_on_loopback_only(viewer) -> None:
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=5):
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks which address this machine would use
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address beside loopback")
    if address.startswith("127."):
        pytest.skip("this machine has no address beside loopback")
    with pytest.raises(OSError):
        socket.create_connection((address, viewer.port), timeout=2).close()


def test_a_port_in_use_is_passed_over(viewer) -> None:
    with HandViewer(port=viewer.port) as second:
        assert second.port != viewer.port
        assert second.url == f"http://127.0.0.1:{second.port}"
        for port in (viewer.port, second.port):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_an_address_that_is_not_ours_is_an_error_with_a_way_out() -> None:
    with pytest.raises(SourceError, match=r"cannot listen on 192\.0\.2\.7:\d+ .*--host"):
        HandViewer(host="192.0.2.7", port=free_port())


def test_many_updates_cost_the_caller_nothing_and_the_page_few(hands, monkeypatch) -> None:
    drawn: list[float] = []
    done = threading.Event()

    def slow(self, newest) -> None:
        drawn.append(time.monotonic())
        time.sleep(0.02)
        if newest.stats.frames == 299:
            done.set()

    monkeypatch.setattr(HandViewer, "_draw", slow)
    with HandViewer(port=free_port(), rate=20.0) as viewer:
        begin = time.monotonic()
        for number in range(300):
            viewer.show_hands(hands, ViewerStats(frames=number))
        assert time.monotonic() - begin < 0.3, "300 calls wait for no drawing"
        assert done.wait(5.0), "the last one is drawn"
    gaps = np.diff(drawn)
    assert len(drawn) < 12 and (gaps > 0.045).all()


def test_an_update_that_fails_is_logged_and_the_next_one_drawn(viewer, hands, caplog) -> None:
    broken = ViewerHand(np.zeros((3, 3)), 0.5)
    viewer.show_hands(Pair(broken, None), ViewerStats(frames=1))
    deadline = time.monotonic() + 10
    while "could not be updated" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "could not be updated" in caplog.text
    viewer.show_hands(hands, ViewerStats(frames=2, rate=12.5))
    while "12.5 Hz" not in viewer._text.content and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "12.5 Hz" in viewer._text.content


def test_closing_twice_is_fine_and_frees_the_port(hands) -> None:
    viewer = HandViewer(port=free_port())
    viewer.show_hands(hands)
    port = viewer.port
    viewer.close()
    viewer.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()


@pytest.mark.parametrize("there", ["both", "left", "right"])
def test_the_first_view_has_all_hands_in_it(hands, there) -> None:
    shown = Pair(hands.left if there != "right" else None, hands.right if there != "left" else None)
    eye, target = frame_hands(shown)
    forward = (target - eye) / np.linalg.norm(target - eye)
    for _, hand in shown.items():
        if hand is not None:
            to_joints = hand.joints - eye
            angle = np.degrees(np.arccos(to_joints @ forward / np.linalg.norm(to_joints, axis=1)))
            assert angle.max() < 24, "within the vertical field of view of 52 degrees"
    assert eye[2] < 0 and eye[1] < 0, "from behind and above the camera"


def test_the_panel_says_what_is_lost_and_what_is_assumed(hands) -> None:
    text = panel_text(Pair(None, hands.right), ViewerStats(rate=10, latency=0.02, frames=3, model_id="m"))
    assert "left: not seen" in text and "**right**: 90%" in text and "about 0.4" in text and "scale assumed" in text
    metric = panel_text(Pair(None, hands.right), ViewerStats(model_id="m", metric_scale=True))
    assert "about" not in metric and "assumed" not in metric


def test_the_demo_page_of_the_real_nodes(tmp_path: Path) -> None:
    """Camera node, hands node and viewer node as processes; the page they serve shows hands and live figures."""
    pytest.importorskip("rclpy", reason="no ROS here: the demo's nodes cannot run")
    pytest.importorskip("a2p_ros.msg", reason="the messages of a2p_ros are not built")
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine (apt install chromium)")
    from a2p_ros.commands.demo import camera_arguments, hands_arguments
    from a2p_ros.commands.processes import Children, read_json
    from a2p_ros.commands.ros_environment import private_environment

    env = private_environment()
    status = tmp_path / "status.json"
    view = ["--port", str(free_port()), "--status", str(status), "--ros-args"]
    view += ["-r", "image_raw:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
    with Children() as children:
        children.start_module("camera_node", "a2p_ros.ros.camera_node", *camera_arguments("synthetic", 15.0), env=env)
        children.start_module("hands_node", "a2p_ros.ros.hands_node", *hands_arguments(), env=env)
        children.start_module("viewer", "a2p_ros.ros.viewer_node", *view, env=env)
        with Browser(tmp_path, timeout=90.0) as browser:

            def page() -> str | None:
                children.check()
                answer = read_json(status)
                return answer["url"] if answer.get("left_valid") and answer.get("right_valid") else None

            browser.open(browser.until(page, "both hands valid in the demo"))
            browser.until(lambda: "keypoint_fit" in browser.text(), "the panel of the demo")

            def both() -> bool:
                browser.dismiss_notices()
                picture = browser.screenshot()
                return min(pixels_of(picture, BLUE), pixels_of(picture, ORANGE)) > 1500

            browser.until(both, "both hands on the demo's page")
            # The page fades in; the picture of the README is taken of a later, equally good one.
            if os.environ.get("A2P_DEMO_SCREENSHOT"):
                seen = read_json(status)["frames"]
                browser.until(lambda: read_json(status)["frames"] > seen + 30 and both(), "both hands once more")
                picture = cv2.cvtColor(browser.screenshot(), cv2.COLOR_RGB2BGR)
                cv2.imwrite(os.environ["A2P_DEMO_SCREENSHOT"], picture)
        children.check()
