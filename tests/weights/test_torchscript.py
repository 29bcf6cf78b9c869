"""OpenAI's form of CLIP's files: TorchScript archives, read as data."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.weights.files import read_weights
from tests.helpers import facts


class Net(nn.Module):
    """Parameters, buffers, a child and numbers, as in a net of OpenAI."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.widths = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x)


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Net, Path]:
    torch.manual_seed(0)
    net, path = Net(), tmp_path / "net.pt"
    net.inner[0].half()
    torch.jit.save(torch.jit.trace(net.float(), torch.zeros(1, 3)), path)
    return net, path


def test_the_tensors_are_those_of_the_module(archive: tuple[Net, Path]):
    net, path = archive
    tensors = read_weights(path).tensors
    expected = net.state_dict()
    assert tensors.keys() == expected.keys()
    for key, x in expected.items():
        assert torch.equal(tensors[key], x) and tensors[key].dtype == x.dtype


def replace_file(path: Path, ending: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            new.writestr(name, content if name.endswith(ending) else data)


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_what_is_more_than_tensors_is_refused(archive: tuple[Net, Path], capsys):
    _, path = archive
    replace_file(path, "/data.pkl", pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(UserError, match=facts("print")):
        read_weights(path)
    assert not capsys.readouterr().out


def test_a_damaged_archive_is_one_sentence(archive: tuple[Net, Path]):
    _, path = archive
    replace_file(path, "/data.pkl", b"")
    with pytest.raises(UserError, match=facts("damaged")):
        read_weights(path)
