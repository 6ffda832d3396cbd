"""One error family. Messages name what arrived, what was expected and the way out."""

from __future__ import annotations


class A2PError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(A2PError, ValueError):
    """An image, an array or a value does not have the promised form."""


class CameraError(InputError):
    """Camera parameters are missing, not finite or contradict the image."""


class ConfigError(InputError):
    """A configuration field is out of its range or unknown."""


class HandModelError(A2PError):
    """A hand-model file is missing, damaged, or not what it claims to be."""


class WeightsError(A2PError):
    """Network weights are missing, tampered with, or made for something else."""


class DeviceError(A2PError):
    """The requested device or execution provider was not granted."""


class MissingDependencyError(A2PError):
    """An optional package or system library is needed for what was asked."""


class SourceError(A2PError):
    """A video, folder, bag or camera cannot be opened or read."""
