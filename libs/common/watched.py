"""A file that services follow: one that changes replaces what is in force, and a bad one is refused as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

T = TypeVar("T")
LIMIT_BYTES = 4 * 1024**2
Reload = Literal["unchanged", "replaced", "refused"]


class FileFault(ValueError):
    """The file cannot be used. `faults` names each path with what is wrong there."""

    what = "file"

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"the {self.what} has faults:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = faults


def text_of(path: Path, fault: type[FileFault]) -> str:
    """What a file holds. `fault` where it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise fault([f"{path} is larger than {LIMIT_BYTES} bytes"])
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise fault([f"{path} cannot be read: {error}"]) from error


def yaml_of(text: str, fault: type[FileFault]) -> Any:
    """The values of a YAML text. `fault` where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise fault([f"not YAML: {error}"]) from error


class Watched(Generic[T]):
    """What a file holds, as of the last look that found it good.

    Args:
        path: the file.
        load: reads it; raises FileFault.
    """

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self._path = path
        self._load = load
        self._seen = self._stamp()
        self.current = load(path)
        self.last_fault: FileFault | None = None

    def reload(self, *, force: bool = False) -> Reload:
        """Read the file anew if it has changed since the last look, or in any case with `force`."""
        stamp = self._stamp()
        if stamp == self._seen and not force:
            return "unchanged"
        self._seen = stamp
        try:
            self.current = self._load(self._path)
        except FileFault as fault:
            self.last_fault = fault
            return "refused"
        self.last_fault = None
        return "replaced"

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            # Following links: Kubernetes swaps a link when a ConfigMap changes.
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
