"""A local Dask cluster as executor.  It needs the extra `dask`, which is not among what is tested
by default: it brings a dozen packages.  pip install 'mmigrate[dask]' runs this.
"""

import json
from pathlib import Path

import pytest

from mmigrate.cli.main import run
from mmigrate.explore import parallel

distributed = pytest.importorskip(
    "distributed", reason="a Dask cluster needs the extra dask: pip install 'mmigrate[dask]'"
)

SCENARIO = """
from mmigrate.explore import Shared

MACHINE = {"cpus": (0, 0, 0)}

def increments(machine):
    counter = Shared(0, "counter")

    def increment(times):
        for _ in range(times):
            counter.store(counter.load() + 1)

    for times in (2, 2, 1):
        machine.start(increment, times)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a cluster warns of is its own business
def test_a_local_cluster(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "ALONE", 0.01)  # so that there is work for it
    Path("mine.py").write_text(SCENARIO)
    search = ["explore", "mine.py:increments", "--jobs", "2", "--json"]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        place = cluster.scheduler_address.removeprefix("tcp://")
        code = run([*search, "--executor", f"dask://{place}"])
    found = json.loads(capsys.readouterr().out)
    assert run(search[:2] + search[4:]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (code, found["classes"], found["exhausted"]) == (0, alone["classes"], True)
