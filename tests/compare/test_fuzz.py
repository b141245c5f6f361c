"""`mmigrate fuzz`, with a modelled kernel in the place of the real one."""

import json

import pytest

from mmigrate.cli.main import run
from mmigrate.compare import kernels
from mmigrate.compare.cases import load_cases
from mmigrate.compare.kernels import Told
from mmigrate.compare.model import allowed_answers


@pytest.fixture
def a_kernel_of_v3_19(monkeypatch):
    """Answers of the model of v3.19, as if the kernel here were that."""

    def program_answers(_image, _nodes, file, names):
        for case in load_cases([str(file)]):
            (answer,) = allowed_answers(case, "v3.19").answers
            yield case.scenario.name, Told(((answer, 1),))
        assert len(names) == len(set(names))

    monkeypatch.setattr(kernels, "program_answers", program_answers)
    monkeypatch.setattr(kernels, "host_release", lambda: "3.19.0-test")


def test_nothing_differs_from_the_model_of_the_same_kernel(a_kernel_of_v3_19, capsys, tmp_path):
    command = ["fuzz", "--kernel", "host", "--programs", "20", "--findings", str(tmp_path)]
    assert run([*command, "--seed", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cases"], found["same"], found["different"]) == (20, 20, [])
    assert (found["seed"], found["kernel"], found["findings"]) == (5, "3.19.0-test", [])


@pytest.mark.slow
def test_a_difference_is_made_small_and_printed(a_kernel_of_v3_19, capsys, tmp_path):
    command = ["fuzz", "--kernel", "host", "--programs", "20", "--findings", str(tmp_path)]
    assert run([*command, "--model", "v6.1"]) == 1
    shown = capsys.readouterr().out
    assert "def program_" in shown
    kept = sorted(tmp_path.glob("program_*.py"))
    assert f"repeat with: mmigrate compare {kept[0]} --kernel host" in shown
    (small,) = (path for path in kept if "made small" in path.read_text())
    lines = [line for line in small.read_text().splitlines() if 'seen["' in line]
    assert len(lines) <= 3, lines
    (case,) = load_cases([str(small)])
    assert allowed_answers(case, "v3.19").answers != allowed_answers(case, "v6.1").answers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kernel", "nowhere"], "nowhere: No such file"),
        (["--kernel", __file__], "is not a kernel image"),
        (["--kernel", "host", "--programs", "0"], "programs"),
    ],
)
def test_bad_input_is_told_in_a_sentence(capsys, arguments, words):
    assert run(["fuzz", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_kernel_here_is_asked(capsys):
    """On a computer with too few nodes every program is skipped, and the reason is told."""
    run(["fuzz", "--kernel", "host", "--programs", "2", "--shrink", "0", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 2
    assert found["same"] + len(found["different"]) + len(found["skipped"]) == 2
