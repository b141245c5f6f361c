"""Real processes are made for x86-64; elsewhere there is only the one test that says so."""

import platform

collect_ignore = []
if platform.machine() != "x86_64":
    collect_ignore += ["test_machine.py", "test_tables.py", "test_serve.py"]
