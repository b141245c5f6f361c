"""Runs a command for as long as somebody holds the other end of its standard input:

    python -I -S keeper.py FOLDER COMMAND...

When the command ends, its exit code is written to FOLDER/ended. When the other end closes,
everything that the command started is killed and FOLDER is removed. So no guest survives whoever
booted it, however that ended. It imports nothing of mmigrate.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def keep(folder: Path, command: list[str]) -> None:
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_usual_signals
    )
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        code = child.wait()
        with suppress(OSError):
            (folder / "ended.new").write_text(str(code))
            (folder / "ended.new").rename(folder / "ended")

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while os.read(0, 4096):
        pass
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    waiting.join()
    shutil.rmtree(folder, ignore_errors=True)


def _usual_signals() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2:])
