"""What the verbs share: output, progress, and pipeline options."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_origin

import numpy as np

from a2p_ros.config import PipelineConfig
from a2p_ros.errors import ConfigError

T = TypeVar("T")


def say(text: str = "") -> None:
    """One line for the reader, at once even into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"a2p: {' '.join(text.split())}\n")


def finish(args: argparse.Namespace, result: Mapping[str, Any], lines: Iterable[str]) -> None:
    """The result: the lines for people, or with ``--json`` one object as the last line of standard output."""
    if args.json:
        say(json.dumps(plain(result), allow_nan=False))
    else:
        for line in lines:
            say(line)


def plain(value: Any) -> Any:
    """Numpy and nested values as JSON has them; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()] if value.dtype != np.float32 else _short(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(values: np.ndarray) -> list[Any]:
    """float32 with the seven digits that it has."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.reshape(-1).tolist()]


def progress(items: Iterable[T], *, total: int | None, unit: str = "frame", what: str = "") -> Iterator[T]:
    """A progress bar on standard error; into a file it writes a line every ten seconds only."""
    with bar(total=total, unit=unit, what=what) as shown:
        for item in items:
            yield item
            shown.update()


def bar(*, total: int | None, unit: str, what: str = "") -> Any:
    """A tqdm bar to be moved by hand."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, unit=unit, desc=what or None, mininterval=interval, dynamic_ncols=True)


def percentiles(values: Iterable[float], factor: float = 1.0) -> dict[str, float]:
    """p50 and p99 of values times a factor, NaN of none."""
    array = np.asarray(list(values), float) * factor
    if array.size == 0:
        return {"p50": math.nan, "p99": math.nan}
    return {"p50": float(np.percentile(array, 50)), "p99": float(np.percentile(array, 99))}


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """The most used settings by name, and every setting through ``--set``."""
    group = parser.add_argument_group("pipeline")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), help="where the networks run")
    group.add_argument("--hand-length", type=float, metavar="M", help="wrist to middle fingertip of the user [m]")
    group.add_argument("--hand-model", metavar="DIR", help="folder made by `a2p hand-model convert`")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, as detection.min_score=0.6"
    )


def pipeline_config(args: argparse.Namespace) -> PipelineConfig:
    """The configuration that the options of `add_pipeline_options` ask for; raises ConfigError."""
    kinds = {name: kind for name, kind, _ in PipelineConfig.flat_settings()}
    values: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected NAME=VALUE, as detection.min_score=0.6")
        if name not in kinds:
            raise ConfigError(f"--set {text}: unknown setting {name}; known are {', '.join(sorted(kinds))}")
        values[name] = parse(name, value, kinds[name])
    named = {
        "device.device": args.device,
        "placement.hand_length": args.hand_length,
        "device.hand_model": args.hand_model,
    }
    values |= {name: value for name, value in named.items() if value is not None}
    return PipelineConfig.from_flat(values)


def parse(name: str, text: str, kind: Any) -> Any:
    """The value of ``--set name=text`` in the type of its setting; raises ConfigError."""
    if get_origin(kind) is not None:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"--set {name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}: expected {kind.__name__}, got {text!r}") from error
