"""The model of each recorded kernel allows what that kernel answered to the whole collection."""

import json
import re

import pytest

from mmigrate.cli.main import run
from mmigrate.compare import differences, kernels
from mmigrate.compare.kernels import Recording, Told, read_recording, write_recording
from mmigrate.compare.verdicts import judge
from mmigrate.errors import UsageError
from tests.compare.test_collection import CASES, COLLECTION, case_named

RECORDINGS = kernels.recordings()


def test_there_are_recordings_of_the_whole_collection():
    releases = [kernels.release_of(recording.name) for recording in RECORDINGS]
    assert releases == ["v6.1", "v6.12"]
    for recording in RECORDINGS:
        assert set(recording.told) == {case.name for case in CASES}
        assert recording.configuration["CONFIG_NUMA"] == "y"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
@pytest.mark.slow
def test_the_model_agrees(recording):
    release = kernels.release_of(recording.name)
    verdicts = [judge(case, recording.told[case.name], release, release) for case in CASES]
    assert [v.case for v in verdicts if v.outcome == "different"] == []
    assert sum(verdict.outcome == "same" for verdict in verdicts) >= 180


def test_every_row_of_the_table_names_a_case():
    names = {case.name for case in CASES}
    assert [row.case for row in differences.TABLE if row.case not in names] == []
    for row in differences.TABLE:  # and what changed it: an id, or a subject
        assert re.fullmatch("[0-9a-f]{12}|[a-z]+.*: .+", row.commit)


def test_a_row_that_no_longer_differs_fails(monkeypatch):
    case = case_named("move_pages_statuses:moved")
    row = differences.Difference(case.name, ("status",), "v4.0", "a reason", "a commit")
    monkeypatch.setattr(differences, "TABLE", (row,))
    told = RECORDINGS[0].told[case.name]
    verdict = judge(case, told, "v6.1", "v6.1")
    assert verdict.outcome == "different"
    assert "out of date" in verdict.why
    ((answer, _),) = told.answers
    otherwise = Told((({**answer, "status": "1 1 1"}, 1),))
    assert judge(case, otherwise, "v6.1", "v6.1").outcome == "known"
    assert judge(case, otherwise, "v3.19", "v3.19").outcome == "different"


def test_a_recording_is_read_as_it_was_written(tmp_path):
    told = {
        "a:b": Told(answers=(({"x": [1, "EINVAL"]}, 3), ({"x": 2}, 1))),
        "a:c": Told(missing="a node"),
        "a:d": Told(error="it hung"),
    }
    recording = Recording("6.1.0-56-amd64", (1 << 20, 0), {"CONFIG_NUMA": "y"}, told)
    write_recording(tmp_path / "r.json", recording)
    assert read_recording(tmp_path / "r.json") == recording


def compare(capsys, *arguments):
    code = run(["compare", *arguments])
    return code, capsys.readouterr()


def test_the_command_compares_with_recordings(capsys):
    code, shown = compare(
        capsys, str(COLLECTION / "protection.py"), "--recorded", "--kernel", "6.1", "--json"
    )
    found = json.loads(shown.out)
    assert code == 0
    assert found["kernel"].startswith("6.1.")
    assert found["cases"] == found["same"] + len(found["known"])
    assert found["different"] == []


def test_against_v3_19_it_shows_what_has_changed_since(capsys):
    where = f"{COLLECTION / 'move_pages_statuses.py'}:pinned"
    code, shown = compare(capsys, where, "--recorded", "--kernel", "6.1", "--model", "v3.19")
    assert code == 1
    assert "model:  1 EAGAIN 1" in shown.out
    assert "kernel: ENOENT ENOENT ENOENT (returned 1)" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.py", "--recorded"], 2, "there is no file nowhere.py"),
        ([str(COLLECTION)], 2, "which kernel?"),
        ([str(COLLECTION), "--kernel", "nowhere"], 2, "nowhere: No such file"),
        ([str(COLLECTION), "--kernel", __file__], 2, "is not a kernel image"),
        ([str(COLLECTION), "--recorded", "--kernel", "2.6"], 2, "no recording of kernel 2.6"),
    ],
)
def test_bad_input_is_told_in_a_sentence(capsys, arguments, code, words):
    given, shown = compare(capsys, *arguments)
    assert given == code
    assert words in shown.err
    assert shown.out == ""


def test_scenarios_that_were_never_asked_are_named(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(machine):\n    return {}\n")
    code, shown = compare(capsys, str(file), "--recorded")
    assert code == 2
    assert "was never asked mine:mine" in shown.err


def test_a_recording_that_is_none(tmp_path):
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(UsageError, match="is not a recording"):
        read_recording(tmp_path / "r.json")


def test_a_new_recording_of_a_part_keeps_the_rest():
    def of(name, **told):
        return Recording(
            name, (1 << 20,), {}, {case: Told(missing=text) for case, text in told.items()}
        )

    earlier = of("6.1.0-56-amd64", one="old", two="old")
    assert earlier.with_(of("6.1.0-56-amd64", two="new")).told == of("", one="old", two="new").told
    assert earlier.with_(of("6.1.0-57-amd64", two="new")) == of("6.1.0-57-amd64", two="new")


def test_a_file_that_is_no_recording_is_not_written_over(capsys, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("dear to me")
    case = str(COLLECTION / "protection.py")
    assert compare(capsys, case, "--recorded", "--kernel", "6.1", "--record", str(file))[0] == 2
    assert file.read_text() == "dear to me"
