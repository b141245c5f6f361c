"""Real kernels behind the user-level API of the model: the kernel that runs here.

`RealMachine` looks like `mmigrate.Machine`, so the same scenario functions run on both. What this
kernel, computer or user cannot do is `Missing`, with the reason.
"""

from mmigrate.errors import Missing
from mmigrate.real.machine import RealMachine
from mmigrate.real.process import RealPin, RealProcess
from mmigrate.real.tasks import RealStarted

__all__ = ["Missing", "RealMachine", "RealPin", "RealProcess", "RealStarted"]
