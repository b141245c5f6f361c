"""What RealMachine says on a computer that it was not made for."""

import os
from types import SimpleNamespace

import pytest

from mmigrate.real import Missing, RealMachine


def test_another_kind_of_computer(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64", release="6.1"))
    with pytest.raises(Missing, match="real processes are made for x86_64; this is aarch64"):
        RealMachine(nodes=(1 << 20,))
