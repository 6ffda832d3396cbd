"""``a2p doctor``: what this machine has, what the package would use, and the line to type for what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2p_ros.commands import common
from a2p_ros.errors import A2PError

#: Whether the package runs at all without it, or only loses something.
_NEEDED, _OPTIONAL = "needed", "optional"


@dataclass(frozen=True)
class Finding:
    """One line of the answer. ``fix`` is what to type; empty where nothing is to be done."""

    name: str
    ok: bool
    text: str
    fix: str = ""
    kind: str = _OPTIONAL


def add_parser(verbs: Any) -> None:
    """Options of ``a2p doctor``."""
    parser = verbs.add_parser("doctor", help="what this machine has and lacks", description=__doc__)
    parser.add_argument("--hand-model", metavar="DIR", default="", help="also check this converted MANO folder")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at everything; exit code 1 where something needed is missing."""
    looks: tuple[Callable[[], Finding], ...] = (
        python,
        torch,
        onnxruntime,
        models,
        lambda: hand_model(args.hand_model),
        renderer,
        chromium,
        ros,
        messages,
        fast_dds,
        cameras,
        video_encoder,
        bags,
        mediapipe_peer,
    )
    findings = [look() for look in looks]
    lines = []
    for finding in findings:
        mark = "OK     " if finding.ok else "MISSING" if finding.kind == _NEEDED else "without"
        lines.append(f"{mark}  {finding.name:<16} {finding.text}")
        if finding.fix and not finding.ok:
            lines.append(f"{'':27}-> {finding.fix}")
    good = all(finding.ok for finding in findings if finding.kind == _NEEDED)
    result = {"ok": good, "findings": {f.name: {"ok": f.ok, "text": f.text, "fix": f.fix} for f in findings}}
    lines.append("all that is needed is there" if good else "something needed is missing, see above")
    common.finish(args, result, lines)
    return 0 if good else 1


def python() -> Finding:
    """Interpreter and machine."""
    cores = len(os.sched_getaffinity(0))
    text = f"{platform.python_version()} in {sys.prefix}; {platform.machine()}, {cores} cores"
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", ok, text, "use Python 3.10 to 3.12: make install PYTHON=python3.11", _NEEDED)


def torch() -> Finding:
    """PyTorch and its GPU."""
    code = (
        "import torch; print(torch.__version__, torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'cpu')"
    )
    ok, text = _ask(code)
    return Finding("PyTorch", ok, text, "pip install torch", _NEEDED)


def onnxruntime() -> Finding:
    """Providers that are really granted to a model, not only compiled in."""
    ok, text = _ask("import onnxruntime as o; print(o.__version__, *o.get_available_providers())")
    fix = (
        "pip install onnxruntime (or onnxruntime-gpu for an NVIDIA GPU, never both); the networks and the detection "
        "backends a2p, combined and rtmdet need it"
    )
    if not ok:
        return Finding("onnxruntime", False, text, fix)
    version, *listed = text.split()
    granted, detail = _ask(_GRANTED)
    named = ", ".join(listed)
    text = f"{version}, offers {named}" + (f"; granted to a model: {detail}" if granted else "")
    return Finding("onnxruntime", True, text)


def models() -> Finding:
    """What the package would use: the default pipeline, loaded and run once."""
    code = (
        "from a2p_ros.pipeline import TwoHandPipeline\npipeline = TwoHandPipeline()\npipeline.warm_up()\n"
        "print(', '.join(f'{stage}: {what}' for stage, what in pipeline.report().items()))"
    )
    ok, text = _ask(code)
    fix = "pip install ai-edge-litert && pip install --no-deps mediapipe==0.10.21"
    return Finding("models", ok, text, fix, _NEEDED)


def hand_model(folder: str) -> Finding:
    """The hand model that would be used."""
    try:
        from a2p_ros.hand import load_hand_models

        hands = load_hand_models(folder)
    except (A2PError, ImportError) as error:
        fix = "a2p hand-model convert DIR" if folder else "install the package again"
        return Finding("hand model", False, _line(error), fix, _NEEDED)
    where = folder or "shipped with the package"
    return Finding("hand model", True, f"{hands.right.name}, {hands.right.n_vertices} vertices, {where}", "", _NEEDED)


def renderer() -> Finding:
    """EGL, in a process of its own: a broken driver may take its process along."""
    ok, text = _ask("from a2p_ros.rendering import Renderer\nwith Renderer(64, 64) as r:\n    print(r.device)")
    fix = "sudo apt install libegl1 libgl1-mesa-dri && pip install moderngl; until then the shipped clip is shown"
    return Finding("renderer (EGL)", ok, text, fix)


def chromium() -> Finding:
    """A browser on this machine; any other browser that reaches the page does too."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for found in map(shutil.which, names) if found), None)
    if importlib.util.find_spec("viser") is None:
        return Finding("browser view", False, "viser is not installed", "pip install viser")
    if path is None:
        return Finding("browser view", True, "viser is there; no Chromium here (needed by its test only)")
    return Finding("browser view", True, f"viser {importlib.metadata.version('viser')}, {path}")


def ros() -> Finding:
    """ROS 2: distribution and middleware."""
    code = (
        "import os, rclpy; from rclpy.utilities import get_rmw_implementation_identifier as rmw; "
        "print(os.environ.get('ROS_DISTRO', 'unknown distribution'), 'with', rmw(), 'from', rclpy.__path__[0])"
    )
    ok, text = _ask(code)
    return Finding("ROS 2", ok, text, "make install, or source /opt/ros/$ROS_DISTRO/setup.bash")


def messages() -> Finding:
    """The built messages, and whether they are those of these sources."""
    code = (
        "from a2p_ros.msg import HandMANO, TwoHandMANO, TwoHandMesh\n"
        "from a2p_ros.commands.doctor import stale_messages\n"
        "kinds = (HandMANO, TwoHandMANO, TwoHandMesh)\n"
        "found = stale_messages({kind.__name__: kind.get_fields_and_field_types() for kind in kinds})\n"
        "assert not found, 'built from other sources: ' + ', '.join(found)\n"
        "print('built, and they match the definitions')"
    )
    ok, text = _ask(code)
    return Finding("messages", ok, text, "make install, or colcon build in the workspace and source install/setup.bash")


def stale_messages(built: dict[str, dict[str, str]]) -> list[str]:
    """Names of messages whose built fields are not those of their definition."""
    from a2p_ros.media.bags import hands_typestore

    store = hands_typestore()
    wanted = {name: [field for field, _ in store.fielddefs[f"a2p_ros/msg/{name}"][1]] for name in built}
    return [name for name, fields in built.items() if list(fields) != wanted[name]]


def fast_dds() -> Finding:
    """The profile without which half of all 720p images are lost between processes."""
    from a2p_ros.commands.ros_environment import find_share

    profile = find_share("config", "fastdds.xml")
    if profile is None:
        return Finding("Fast DDS profile", False, "config/fastdds.xml is not found", "install the package again")
    active = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if active:
        return Finding("Fast DDS profile", True, f"{active} is set in this shell")
    text = f"{profile}; launch file and demo set it"
    return Finding(
        "Fast DDS profile", True, f"{text}, other nodes want export FASTRTPS_DEFAULT_PROFILES_FILE={profile}"
    )


def cameras() -> Finding:
    """Video devices, and whether this user may open them."""
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        return Finding("webcam", False, "no /dev/video*", "plug one in, or use a video file or synthetic as the source")
    closed = [d for d in devices if not os.access(d, os.R_OK | os.W_OK)]
    text = ", ".join(f"{d}{' (no permission)' if d in closed else ''}" for d in devices)
    return Finding("webcam", len(closed) < len(devices), text, "sudo usermod -aG video $USER, then log in again")


def video_encoder() -> Finding:
    """Whether overlay videos play in a browser."""
    path = shutil.which("ffmpeg")
    if path:
        return Finding("ffmpeg", True, f"{path}: overlay videos are H.264")
    return Finding(
        "ffmpeg", False, "not found: overlay videos are MPEG-4, which browsers do not play", "apt install ffmpeg"
    )


def bags() -> Finding:
    """Reading and writing bags."""
    ok, text = _ask("import importlib.metadata as m, rosbags; print('rosbags', m.version('rosbags'))")
    return Finding("bags", ok, text, "pip install rosbags")


def mediapipe_peer() -> Finding:
    """MediaPipe's own Python, for comparisons only."""
    ok, text = _ask("from mediapipe.python.solutions.hands import Hands; Hands().close(); print('runs')")
    return Finding("MediaPipe", ok, f"{text} (needed for comparisons only)", "pip install 'a2p_ros[peer]'")


#: An identity network of a few bytes, written by hand so that no ONNX package is needed, given to every provider.
_GRANTED = """
import onnxruntime as o
def field(n, data): return bytes([n << 3 | 2, len(data)]) + data
def value(name):
    dim = field(2, field(1, field(1, b"\\x08\\x01")))
    return field(1, name) + field(2, field(1, b"\\x08\\x01" + dim))
node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
model = b"\\x08\\x08" + field(7, graph) + field(8, b"\\x10\\x0d")
options = o.SessionOptions(); options.log_severity_level = 4
print(*o.InferenceSession(model, options, providers=o.get_available_providers()).get_providers())
"""


def _ask(code: str) -> tuple[bool, str]:
    """Run Python in a process of its own: (whether it worked, its last line)."""
    env = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, env.get("PYTHONPATH", "")) if p)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    except subprocess.TimeoutExpired:
        return False, "no answer within 120 s"
    text = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, text[-1].strip() if text else f"exit code {done.returncode}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
