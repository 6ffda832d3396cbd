from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from scripted import ScriptedPipeline

from a2p_ros import cli
from a2p_ros.commands import common, demo, doctor, run
from a2p_ros.commands.processes import ChildDied, Children, cpu_seconds, memory_mb
from a2p_ros.errors import ConfigError
from a2p_ros.media.sources import Frame
from a2p_ros.types import TwoHands

ROOT = Path(__file__).resolve().parents[1]
DEMO_MARK = f"a2p-demo-of-{os.getpid()}-{time.time_ns()}"


@pytest.fixture
def scripted(monkeypatch) -> type[ScriptedPipeline]:
    ScriptedPipeline.resets = 0
    monkeypatch.setattr("a2p_ros.pipeline.TwoHandPipeline", ScriptedPipeline)
    return ScriptedPipeline


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (320, 180))
    for number in range(12):
        writer.write(np.full((180, 320, 3), 20 * number, np.uint8))
    writer.release()
    return path


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_run_writes_video_lines_and_bag(scripted, video, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(video), "--out", str(out), "--mcap", "--json"]) == 0
    result = last_json(capsys)
    assert result["frames"] == 12 and result["left_valid"] == 6 and result["right_valid"] == 12
    assert result["reprojection_rel"] == pytest.approx(0.0, abs=1e-9) and result["model_id"] == "scripted"
    assert result["fps"] > 0
    lines = [json.loads(line) for line in (out / "hands.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert lines[1]["left"]["valid"] is False and lines[1]["left"]["keypoints"] == [None] * 63
    assert lines[1]["right"]["valid"] is True and len(lines[1]["right"]["mano_pose"]) == 48
    assert lines[1]["header"]["stamp"] == {"sec": 0, "nanosec": pytest.approx(40_000_000, abs=10)}
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 12 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25.0)
    with AnyReader([out / "hands_bag"]) as reader:
        assert reader.message_count == 12


def test_the_json_lines_hold_every_message_field(scripted, video, tmp_path) -> None:
    from a2p_ros.media.bags import hands_typestore

    assert cli.main(["run", str(video), "--out", str(tmp_path / "o"), "--frames", "1", "--no-video"]) == 0
    line = json.loads((tmp_path / "o" / "hands.jsonl").read_text())
    definitions = hands_typestore().fielddefs
    assert set(line) == {name for name, _ in definitions["a2p_ros/msg/TwoHandMANO"][1]}
    assert set(line["left"]) == set(line["right"]) == {name for name, _ in definitions["a2p_ros/msg/HandMANO"][1]}
    assert not (tmp_path / "o" / "overlay.mp4").exists()


def test_run_on_a_picture_writes_a_picture(scripted, tmp_path, capsys) -> None:
    picture = tmp_path / "hand.png"
    cv2.imwrite(str(picture), np.full((720, 1280, 3), 90, np.uint8))
    assert cli.main(["run", str(picture), "--out", str(tmp_path / "o")]) == 0
    drawn = cv2.imread(str(tmp_path / "o" / "overlay.png"))
    assert drawn.shape == (720, 1280, 3) and (drawn != 90).any()
    assert "left hand in 100.0%" in capsys.readouterr().out


def test_pictures_of_several_sizes_begin_a_new_stream(scripted, tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate(((60, 80), (60, 80), (90, 120))):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((*size, 3), np.uint8))
    assert cli.main(["run", str(folder), "--out", str(tmp_path / "o")]) == 0
    assert scripted.resets == 1


def bad_sources(folder: Path) -> dict[str, tuple[str, str]]:
    """Name: (source, part of the message)."""
    (folder / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and nothing more")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (folder / "empty").mkdir()
    (folder / "broken.mcap").write_bytes(b"\x89MCAP0\r\n cut off")
    return {
        "missing": (str(folder / "nowhere.mp4"), "does not exist; expected an image"),
        "corrupt video": (str(folder / "broken.mp4"), "broken.mp4"),
        "corrupt image": (str(folder / "broken.jpg"), "broken.jpg"),
        "empty folder": (str(folder / "empty"), "holds no image"),
        "truncated bag": (str(folder / "broken.mcap"), "broken.mcap"),
        "bad seed": ("synthetic:x", "expected synthetic or synthetic:SEED"),
        "bad seed of crossing hands": ("crossing:x", "with a whole number, as crossing:3"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "corrupt video",
        "corrupt image",
        "empty folder",
        "truncated bag",
        "bad seed",
        "bad seed of crossing hands",
    ],
)
def test_a_bad_source_is_one_clear_line_and_exit_code_2(scripted, tmp_path, capsys, kind) -> None:
    source, part = bad_sources(tmp_path)[kind]
    assert cli.main(["run", source, "--out", str(tmp_path / "o")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("a2p: error:")]
    assert len(errors) == 1 and part in errors[0]


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (
            ["--set", "detection.colour=red"],
            "unknown setting detection.colour; known are detection.anchor, detection.backend",
        ),
        (["--set", "detection.min_score"], "expected NAME=VALUE"),
        (["--set", "detection.min_score=high"], "expected float, got 'high'"),
        (["--set", "detection.min_score=7"], "expected a value in [0.0, 1.0], got 7.0"),
        (["--set", "smoothing.enabled=maybe"], "expected true or false"),
        (["--hand-length", "3"], "placement"),
        (["--frames", "0"], "expected 1 or more, got 0"),
    ],
)
def test_a_bad_option_is_named(scripted, video, tmp_path, capsys, option, part) -> None:
    assert cli.main(["run", str(video), "--out", str(tmp_path / "o"), *option]) == 2
    err = capsys.readouterr().err
    assert (part in err) or (part == "placement" and "hand_length" in err)


@pytest.mark.parametrize(("stamps", "resets"), [((0.0, 0.1, 0.2), 0), ((0.0, 0.1, 0.1, 0.2), 1), ((5.0, 0.0, 0.1), 1)])
def test_time_that_stands_or_goes_back_begins_a_new_stream(scripted, stamps, resets) -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    seen = list(run.process(scripted(), [Frame(image, stamp) for stamp in stamps]))
    assert [hands.stamp for _, hands in seen] == list(stamps)
    assert scripted.resets == resets


def test_a_full_disk_is_one_clear_line(scripted, video, tmp_path, capsys, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run.Outputs, "write", full)
    assert cli.main(["run", str(video), "--out", str(tmp_path / "out"), "--no-video"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "a2p: error: [Errno 28] No space left on device"


def test_the_source_is_never_written_over(scripted, video, capsys) -> None:
    source = video.rename(video.with_name("overlay.mp4"))
    before = source.read_bytes()
    assert cli.main(["run", str(source), "--out", str(source.parent)]) == 2
    assert "would overwrite the source" in capsys.readouterr().err
    assert source.read_bytes() == before and list(source.parent.iterdir()) == [source]


def test_settings_reach_the_pipeline(scripted) -> None:
    args = cli.make_parser().parse_args(
        ["run", "x", "--set", "detection.interval=9", "--set", "smoothing.enabled=false", "--hand-length", "0.19"]
    )
    config = common.pipeline_config(args)
    assert config.detection.interval == 9 and config.smoothing.enabled is False
    assert config.placement.hand_length == 0.19


def test_ctrl_c_leaves_complete_files_and_code_130(video, tmp_path, capsys, monkeypatch) -> None:
    class Interrupted(ScriptedPipeline):
        def __call__(self, image, camera, stamp) -> TwoHands:
            if self._count == 5:
                raise KeyboardInterrupt
            return super().__call__(image, camera, stamp)

    monkeypatch.setattr("a2p_ros.pipeline.TwoHandPipeline", Interrupted)
    out = tmp_path / "o"
    assert cli.main(["run", str(video), "--out", str(out), "--mcap", "--json"]) == 130
    assert last_json(capsys)["frames"] == 5
    assert int(cv2.VideoCapture(str(out / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    with AnyReader([out / "hands_bag"]) as reader:
        assert reader.message_count == 5


def test_every_verb_has_help(capsys) -> None:
    for verb in (
        ["run"],
        ["demo"],
        ["doctor"],
        ["eval", "clip"],
        ["eval", "synthetic"],
        ["export"],
        ["bench", "pipeline"],
        ["bench", "network"],
        ["bench", "ros"],
        ["hand-model", "convert"],
    ):
        with pytest.raises(SystemExit) as done:
            cli.main([*verb, "--help"])
        assert done.value.code == 0
        assert "--json" in capsys.readouterr().out


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys\nfrom a2p_ros import cli\ncli.make_parser().format_help()\n"
        "print(sorted({'torch', 'cv2', 'viser', 'mediapipe', 'rclpy', 'rosbags'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_folder_without_mano_files_says_where_to_get_them(tmp_path, capsys) -> None:
    assert cli.main(["hand-model", "convert", str(tmp_path)]) == 2
    assert "mano.is.tue.mpg.de" in capsys.readouterr().err
    assert cli.main(["hand-model", "convert", str(tmp_path / "no")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_json_has_no_nan() -> None:
    value = {"a": np.float32(np.nan), "b": np.array([1.0, np.inf]), "c": [np.int64(3), True], "d": float("nan")}
    assert json.loads(json.dumps(common.plain(value), allow_nan=False)) == {
        "a": None,
        "b": [1.0, None],
        "c": [3, True],
        "d": None,
    }


def test_names_of_result_folders() -> None:
    assert run.default_name("/a/b/clip one.mp4") == "clip_one"
    assert run.default_name("synthetic:3") == "synthetic3"
    assert run.default_name("0") == "0"


def test_doctor_names_what_it_looks_at(capsys) -> None:
    assert cli.main(["doctor", "--json"]) in (0, 1)
    findings = last_json(capsys)["findings"]
    expected = {"Python", "PyTorch", "onnxruntime", "models", "hand model", "renderer (EGL)", "ROS 2", "messages"}
    assert expected <= set(findings)
    assert findings["hand model"]["ok"] and "open_hand" in findings["hand model"]["text"]
    assert findings["models"]["ok"] and "mediapipe" in findings["models"]["text"], findings["models"]
    for name, finding in findings.items():
        assert finding["text"], name
        assert finding["ok"] or finding["fix"], f"{name} is missing and nothing says what to type"


def test_doctor_sees_messages_of_other_sources() -> None:
    from a2p_ros.media.bags import hands_typestore

    fields = {
        name: dict.fromkeys(field for field, _ in hands_typestore().fielddefs[f"a2p_ros/msg/{name}"][1])
        for name in ("HandMANO", "TwoHandMANO")
    }
    assert doctor.stale_messages(fields) == []
    del fields["HandMANO"]["confidence"]
    assert doctor.stale_messages(fields) == ["HandMANO"]


def test_how_long_the_demo_runs() -> None:
    assert demo.duration(None, None, attended=True) is None
    assert demo.duration(None, None, attended=False) == 20.0
    assert demo.duration(None, "7", attended=True) == 7.0
    assert demo.duration(3.0, "7", attended=True) == 3.0
    assert demo.duration(0.0, None, attended=False) is None
    for option, variable in ((-1.0, None), (None, "soon"), (float("nan"), None)):
        with pytest.raises(ConfigError, match=r"seconds|SECONDS"):
            demo.duration(option, variable, attended=True)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_children_that_ignore_interrupts_are_stopped_too() -> None:
    stubborn = (
        "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    with Children() as children:
        child = children.start("stubborn", [sys.executable, "-c", stubborn])
        assert wait_until(lambda: child.tail() == "up")
        children.check()
        assert memory_mb(child.process.pid) > 1 and cpu_seconds(child.process.pid) >= 0
        children.stop(timeout=0.3)
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_dies_is_named_with_its_last_lines() -> None:
    with Children() as children:
        child = children.start("camera", [sys.executable, "-c", "print('lens cap on'); raise SystemExit(3)"])
        child.process.wait(20)
        with pytest.raises(ChildDied, match="camera ended with exit code 3") as caught:
            children.check()
    assert "lens cap on" in caught.value.log


def test_children_end_when_their_parent_is_killed(tmp_path) -> None:
    code = (
        "import sys, time\nfrom a2p_ros.commands.processes import Children\nc = Children()\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "print(c.start('x', sleep).process.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert running(pid)
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    assert wait_until(lambda: not running(pid))


def needs_ros() -> None:
    pytest.importorskip("rclpy", reason="no ROS here: the demo's nodes cannot run")
    pytest.importorskip("a2p_ros.msg", reason="the messages of a2p_ros are not built")


def demo_process(*options: str) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("SECONDS", "ROS_DOMAIN_ID")}
    return subprocess.Popen(
        [sys.executable, "-m", "a2p_ros.cli", "demo", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env | {"A2P_TEST_DEMO": DEMO_MARK},
    )


def test_the_demo_runs_sums_up_and_leaves_nothing_behind(tmp_path) -> None:
    needs_ros()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = demo_process("--seconds", "3", "--fps", "15", "--port", str(port), "--json")
        out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    first, last = out.splitlines()[0], json.loads(out.splitlines()[-1])
    assert first.startswith("hands are shown at http://127.0.0.1:") and f":{port}" not in first
    assert last["frames"] > 5 and last["left_valid"] <= last["frames"] and last["model_id"].startswith("keypoint_fit")
    assert last["latency_ms"]["p50"] > 0
    assert left_behind() == []


def test_a_demo_whose_source_is_missing_says_which_process_failed() -> None:
    needs_ros()
    process = demo_process("--seconds", "3", "--source", "/nowhere/clip.mp4", "--port", "0")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "camera_node ended with exit code" in err and "/nowhere/clip.mp4" in err
    assert left_behind() == []


def left_behind() -> list[str]:
    """Command lines of processes that still carry the mark of these tests' demos in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if DEMO_MARK.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found
