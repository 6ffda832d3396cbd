"""Draw the figures of docs/conventions.md from the open hand itself: ``python docs/make_figures.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from a2p_ros.colours import FINGER_COLOURS, HAND_COLOURS
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.topology import BONES, OPENPOSE_JOINTS
from a2p_ros.hand_frames import wrist_frame
from a2p_ros.types import Side

FOLDER = Path(__file__).parent / "figures"
MODELS = load_hand_models()
AXIS_COLOURS = ("#d62728", "#2a9d2a", "#1f5fd6")
WRIST_AXES = ("x wrist", "y wrist", "z wrist")
SKIN = np.array([228.0, 200.0, 180.0])
INK = "#222222"


class View:
    """An orthographic camera; the rows of ``axes`` are page right, page up and towards the viewer."""

    def __init__(
        self, towards: Sequence[float], up: Sequence[float], scale: float, centre: tuple[float, float]
    ) -> None:
        """See from direction ``towards``, ``up`` upwards, at ``scale`` [px/m], the origin at ``centre`` [px]."""
        z = np.array(towards, float) / np.linalg.norm(towards)
        x = np.cross(up, z)
        x /= np.linalg.norm(x)
        self.axes = np.stack([x, np.cross(z, x), z])
        self.scale, self.centre = scale, np.array(centre)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Page coordinates [px] of points [m]."""
        return self.centre + self.scale * (np.asarray(points) @ self.axes[:2].T) * [1.0, -1.0]


class Drawing:
    """An SVG page; all places are (x, y) in pixels from its top left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        """A white page with a title."""
        self.width, self.height = width, height
        self.parts: list[str] = []
        self.text(20, 30, title, size=16, bold=True)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Words with their baseline at a place, over a white rim."""
        weight = ' font-weight="bold"' if bold else ""
        rim = "" if colour == "white" else ' stroke="white" stroke-width="3" paint-order="stroke"'
        style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}{rim}'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>')

    def line(self, a: np.ndarray, b: np.ndarray, colour: str, width: float = 2.0, dash: str = "") -> None:
        """A line between two places."""
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{colour}" '
            f'stroke-width="{width}" stroke-linecap="round"{extra}/>'
        )

    def arrow(
        self, a: np.ndarray, b: np.ndarray, colour: str, words: str, width: float = 3.0, size: float = 13
    ) -> None:
        """An arrow from a to b with words at its head."""
        along = (b - a) / np.linalg.norm(b - a)
        aside = np.array([-along[1], along[0]])
        self.line(a, b, colour, width)
        self.polygon(np.stack([b + 3 * along, b - 8 * along + 5 * aside, b - 8 * along - 5 * aside]), colour)
        anchor = "start" if along[0] > 0.4 else "end" if along[0] < -0.4 else "middle"
        x, y = b + (9 if anchor != "middle" else 15) * along
        self.text(x, y + 5, words, size=size, colour=colour, anchor=anchor, bold=True)

    def polygon(self, points: np.ndarray, fill: str, stroke: str = "none") -> None:
        """A filled polygon."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{places}" fill="{fill}" stroke="{stroke}" stroke-width="0.6"/>')

    def circle(self, at: np.ndarray, radius: float, fill: str) -> None:
        """A disc with a white rim."""
        self.parts.append(
            f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{fill}" stroke="white" stroke-width="1.2"/>'
        )

    def mesh(self, vertices: np.ndarray, faces: np.ndarray, view: View) -> None:
        """The triangles that face the viewer, far ones first."""
        seen, page = vertices @ view.axes.T, view(vertices)
        normals = np.cross(seen[faces[:, 1]] - seen[faces[:, 0]], seen[faces[:, 2]] - seen[faces[:, 0]])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        for f in np.argsort(seen[faces, 2].mean(1)):
            if normals[f, 2] > 0:
                light = 0.62 + 0.38 * max(0.0, float(normals[f] @ np.array([-0.3, 0.5, 0.81])))
                colour = hexadecimal(SKIN, light)
                self.polygon(page[faces[f]], colour, colour)

    def skeleton(self, joints: np.ndarray, view: View, numbers: bool = False) -> None:
        """Bones and joints in the fingers' colours."""
        page = view(joints)
        for a, b in BONES:
            self.line(page[a], page[b], joint_colour(b), 2.5)
        for k, place in enumerate(page):
            self.circle(place, 9 if numbers else 3.5, joint_colour(k))
            if numbers:
                self.text(place[0], place[1] + 3.8, str(k), size=10.5, colour="white", anchor="middle", bold=True)

    def triad(self, origin: np.ndarray, axes: np.ndarray, view: View, length: float, names: Sequence[str]) -> None:
        """The axes (columns) of a frame from its origin [m], the one nearest to the viewer last."""
        for k in np.argsort(axes.T @ view.axes[2]):
            self.arrow(view(origin), view(origin + length * axes[:, k]), AXIS_COLOURS[k], names[k])

    def save(self, name: str) -> None:
        """Write the SVG into ``docs/figures``."""
        box = f'viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif">'
        page = f'<rect width="{self.width}" height="{self.height}" fill="white"/>'
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / name).write_text("\n".join([head, page, *self.parts, "</svg>\n"]))


def hexadecimal(rgb: Sequence[float] | np.ndarray, light: float = 1.0) -> str:
    """A colour (0 to 255), lit."""
    return "#" + "".join(f"{min(int(c * light), 255):02x}" for c in rgb)


def joint_colour(keypoint: int) -> str:
    """The colour of a keypoint's finger, dark enough for white numbers."""
    return "#555555" if keypoint == 0 else hexadecimal(FINGER_COLOURS[(keypoint - 1) // 4], 0.7)


def rest_hand(side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces, joints of the flat hand [m]."""
    out = MODELS[side].forward(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))
    return out.vertices[0].numpy(), MODELS[side].faces.numpy(), out.joints[0].numpy()


def draw_keypoints() -> None:
    """The 21 keypoints on the back of a right hand."""
    drawing = Drawing(760, 560, "The 21 keypoints: OpenPose order (right hand, seen from its back)")
    view = View((0, 1, 0), (-1, 0, 0), 2250, (290, 285))
    vertices, faces, joints = rest_hand(Side.RIGHT)
    drawing.mesh(vertices, faces, view)
    drawing.skeleton(joints, view, numbers=True)
    for row, name in enumerate(OPENPOSE_JOINTS):
        drawing.text(560, 75 + 22 * row, str(row), colour=joint_colour(row), anchor="end", bold=True)
        drawing.text(572, 75 + 22 * row, name, colour=joint_colour(row))
    drawing.save("keypoints.svg")


def draw_rest_axes() -> None:
    """Both rest hands with the axes of MANO and of the wrist frame."""
    drawing = Drawing(980, 520, "Rest pose: MANO's axes (drawn beside the hand) and the wrist frame (at the wrist)")
    for side, centre, aside, fingers in ((Side.LEFT, 255.0, -0.085, "+x"), (Side.RIGHT, 725.0, 0.075, "-x")):
        view = View((0.25, 1.0, 0.55), (0, 0, -1), 2000, (centre, 240))
        vertices, faces, joints = rest_hand(side)
        drawing.mesh(vertices, faces, view)
        drawing.skeleton(joints, view)
        drawing.triad(np.array([aside, 0.0, 0.085]), np.eye(3), view, 0.03, ("x", "y", "z"))
        drawing.triad(joints[0], wrist_frame(joints, side), view, 0.045, WRIST_AXES)
        origin = view(np.zeros(3))
        drawing.circle(origin, 5, INK)
        drawing.text(origin[0] + 8, origin[1] + 18, "MANO's origin", size=11)
        colour = hexadecimal(HAND_COLOURS[side])
        drawing.text(centre, 75, f"{side.value} hand", size=16, colour=colour, anchor="middle", bold=True)
        words = f"fingers along {fingers}, palm faces -y, thumb on the +z side"
        drawing.text(centre, 485, words, anchor="middle")
    drawing.text(490, 508, "seen obliquely from the back of the hands", size=11, anchor="middle", colour="#777777")
    drawing.save("rest_axes.svg")


def draw_camera() -> None:
    """The camera frame, the image and a hand in front of it."""
    drawing = Drawing(760, 470, "Camera frame (REP 103 optical), image, and a right hand before the camera")
    view = View((0.72, -0.38, -0.58), (0, -1, 0), 1250, (110, 330))
    eye = view(np.zeros(3))
    corners = np.array([[-0.06, -0.045, 0.12], [0.06, -0.045, 0.12], [0.06, 0.045, 0.12], [-0.06, 0.045, 0.12]])
    for corner in corners:
        drawing.line(eye, view(corner), "#bbbbbb", 1)
    drawing.polygon(view(corners), "#eef3fb", "#7a8aa5")
    first = view(corners[0])
    drawing.text(first[0] - 6, first[1] - 8, "pixel (0, 0)", size=11, anchor="end")
    drawing.arrow(first, view(corners[0] + [0.05, 0, 0]), AXIS_COLOURS[0], "px x", 2, 11)
    drawing.arrow(first, view(corners[0] + [0, 0.05, 0]), AXIS_COLOURS[1], "px y", 2, 11)
    drawing.circle(first, 3.5, "#444444")
    vertices, faces, joints = rest_hand(Side.RIGHT)
    # Palm towards the camera, fingers up: the hand's x goes to the camera's y, y to z, z to x.
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    vertices, joints = (points @ turn.T + [0.03, 0.0, 0.42] for points in (vertices, joints))
    drawing.mesh(vertices, faces, view)
    drawing.skeleton(joints, view)
    wrist = view(joints[0])
    drawing.line(eye, wrist, "#888888", 1.2, dash="5,4")
    x, y = eye + 0.62 * (wrist - eye)
    drawing.text(x, y + 22, "wrist.position", size=12, colour="#555555", anchor="middle")
    drawing.triad(joints[0], wrist_frame(joints, Side.RIGHT), view, 0.06, WRIST_AXES)
    drawing.triad(np.zeros(3), np.eye(3), view, 0.09, ("x right", "y down", "z forward"))
    drawing.save("camera_frame.svg")


if __name__ == "__main__":
    draw_keypoints()
    draw_rest_axes()
    draw_camera()
