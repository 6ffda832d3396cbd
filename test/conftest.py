"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def media_folder() -> Path:
    """Folder of the real clips: ``A2P_MEDIA``, else ``shared/media`` beside the repository."""
    return Path(os.environ.get("A2P_MEDIA") or REPOSITORY.parent / "shared" / "media")


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Folder of real pictures and clips; tests that need it are skipped without it."""
    folder = media_folder()
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} does not exist (set A2P_MEDIA to their folder)")
    return folder


@pytest.fixture(scope="session")
def media(media_dir: Path):
    """``media(name)``: path of one real picture or clip, or a skip that names what is missing."""

    def path(name: str) -> Path:
        found = media_dir / name
        if not found.is_file():
            pytest.skip(f"no {name} in {media_dir} (set A2P_MEDIA to the folder of the real clips)")
        return found

    return path
