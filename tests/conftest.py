import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: also for the commands that tests start

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms.v2  # noqa: F401  # late in the library: else the first test pays

from ssvid.log import show_log
from ssvid.trust import VARIABLE

torch.set_num_threads(1)

show_log()  # as commands do: tests read what is logged on standard error


def pytest_configure(config: pytest.Config) -> None:
    """The processes of pytest-xdist share one server of commands (tests/warm.py); alone, it starts
    where it is used.
    """
    from tests import warm

    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        warm.launch()


@pytest.fixture(autouse=True)
def restore_trust() -> Iterator[None]:
    """What a test trusts, the next one does not."""
    before = os.environ.get(VARIABLE, "")
    yield
    os.environ[VARIABLE] = before


LIMIT_CPU_S = 5.0  # of a fast test, its fixtures apart
WORK_CPU_S, WORK_STEPS = 0.065, 20  # what `slowness` computes takes so long where the limit was set


def spent() -> float:
    """CPU-seconds of this process, of its children that ended, and of the commands that it asked
    for.
    """
    from tests import warm

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime + warm.cpu_seconds


def slowness() -> float:
    """How many times slower than that machine this one is at present; not less than 1."""
    began, x = time.process_time(), torch.full((1, 8, 8, 32, 32), 0.5)
    for _ in range(WORK_STEPS):
        x = torch.nn.functional.conv3d(x, torch.full((8, 8, 3, 3, 3), 0.01), padding=1)
        sum(number * number % 7 for number in range(20_000))
    return max(1.0, (time.process_time() - began) / WORK_CPU_S)


def measure(item: pytest.Item) -> Iterator[None]:
    before = spent()
    result = yield
    cpu_s = spent() - before
    item.user_properties.append(("cpu_s", cpu_s))
    if cpu_s > LIMIT_CPU_S and not any(map(item.get_closest_marker, ("slow", "nightly", "gpu"))):
        limit = LIMIT_CPU_S * slowness()
        assert cpu_s <= limit, (
            f"{cpu_s:.1f} CPU-seconds, {limit:.1f} allowed: make it smaller or mark it slow"
        )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from measure(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from measure(item))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With --durations N: the N dearest tests in CPU-seconds."""
    reports = [r for r in terminalreporter.getreports("") if r.when == "teardown"]
    dear = {
        r.nodeid: sum(value for name, value in r.user_properties if name == "cpu_s")
        for r in reports
    }
    if config.getoption("durations"):
        terminalreporter.section(f"CPU-seconds: {sum(dear.values()):.0f} in {len(dear)} tests")
        for name in sorted(dear, key=dear.__getitem__, reverse=True)[
            : config.getoption("durations")
        ]:
            terminalreporter.write_line(f"{dear[name]:6.2f} {name}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of clips, lists and cases beside the checkout; tests of it skip where it is
    absent.
    """
    folder = Path(os.environ.get("SSVID_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder}: set SSVID_SHARED")
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small unlabelled clips."""
    from tests.helpers import squares, write_video

    folder = tmp_path_factory.mktemp("videos")
    for i in range(10):
        write_video(folder / f"{i}.mp4", squares(i))
    return folder
