"""A file of flow -> its open container and the tag that says what it holds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from ssvid.data.container import file_address
from ssvid.files import find_file_fault

TAG = "SSVID_FLOW"
MATROSKA = b"\x1a\x45\xdf\xa3"  # how a Matroska file begins


@contextmanager
def open_flow(flow: Path) -> Iterator[Any]:
    """The open container. A ValueError if the file is none, before FFmpeg could wait for it."""
    if fault := find_file_fault(flow):
        raise ValueError(fault)
    with open(flow, "rb") as file:
        if file.read(4) != MATROSKA:
            raise ValueError("it is no Matroska file")
    with av.open(file_address(flow)) as container:
        yield container


def read_tag(container: Any) -> dict[str, Any]:
    """What the file says of the flow that it holds. A ValueError if it says nothing of it."""
    try:
        tag = json.loads(container.metadata.get(TAG, "{}"))
    except RecursionError:
        raise ValueError("its tag is nested too deeply") from None
    if not isinstance(tag, dict):
        raise ValueError("its tag is no mapping")
    return tag
