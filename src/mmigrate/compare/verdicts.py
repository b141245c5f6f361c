"""One side held against the other: is what the kernel answered among what the model allows?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mmigrate.compare import differences
from mmigrate.compare.answers import Answer
from mmigrate.compare.cases import Case
from mmigrate.compare.differences import Difference
from mmigrate.compare.kernels import Told
from mmigrate.compare.model import Allowed, allowed_answers

NOTHING: Final = "(nothing)"  # an observation that one side did not make


@dataclass(frozen=True)
class Observation:
    """One observation that differs.  @model: all values that the model allows; @kernel: each
    value that came, and how often."""

    key: str
    model: tuple[Any, ...]
    kernel: tuple[tuple[Any, int], ...]


@dataclass(frozen=True)
class Verdict:
    """@outcome: "same", "known", "different", "missing" (the model lacks something) or "skipped"
    (the kernel does).  @observations: what differs.  @why: a sentence.  @outcomes: for a case
    whose tasks race, each answer that is allowed or came, with "Always", "Sometimes", "Never"."""

    case: str
    outcome: str
    observations: tuple[Observation, ...] = ()
    why: str = ""
    rows: tuple[Difference, ...] = ()
    frequencies: tuple[tuple[str, Answer, int], ...] = field(default=())


def judge(case: Case, told: Told, kernel: str, release: str) -> Verdict:
    """Hold a kernel of @release against the model of @kernel."""
    if told.missing is not None:
        return Verdict(case.name, "skipped", why=told.missing)
    if told.error is not None:
        return Verdict(case.name, "different", why=told.error)
    allowed = allowed_answers(case, kernel)
    if allowed.missing is not None:
        return Verdict(case.name, "missing", why=allowed.missing)
    frequencies = _frequencies(allowed, told) if allowed.raced else ()
    observations = tuple(_observations(allowed.answers, told.answers))
    rows = tuple(differences.find(case.name, release))
    excused = {key for row in rows for key in row.keys}
    outdated = excused - {observation.key for observation in observations}
    if outdated:
        names = ", ".join(sorted(outdated))
        why = f"the table of known differences is out of date: no longer different: {names}"
        return Verdict(case.name, "different", observations, why, rows, frequencies)
    if not observations:
        return Verdict(case.name, "same", frequencies=frequencies)
    if {observation.key for observation in observations} <= excused:
        why = "; ".join(row.why for row in rows)
        return Verdict(case.name, "known", observations, why, rows, frequencies)
    return Verdict(case.name, "different", observations, "", rows, frequencies)


def _observations(
    allowed: Sequence[Answer], told: Sequence[tuple[Answer, int]]
) -> Iterable[Observation]:
    """What differs: answers that are not allowed as a whole, told by the observations that come
    closest."""
    foreign = [(answer, count) for answer, count in told if answer not in allowed]
    keys: dict[str, None] = {}
    for answer, _ in foreign:
        nearest = min((_differing(answer, other) for other in allowed), key=len)
        keys.update(dict.fromkeys(nearest))
    for key in keys:
        values: list[Any] = []
        for each in allowed:
            if each.get(key, NOTHING) not in values:
                values.append(each.get(key, NOTHING))
        came = tuple((answer.get(key, NOTHING), count) for answer, count in foreign)
        yield Observation(key, tuple(values), came)


def _differing(one: Answer, other: Answer) -> list[str]:
    return [key for key in {**one, **other} if one.get(key, NOTHING) != other.get(key, NOTHING)]


def _frequencies(allowed: Allowed, told: Told) -> tuple[tuple[str, Answer, int], ...]:
    runs = sum(count for _, count in told.answers)
    found = [
        ("Always" if count == runs else "Sometimes", answer, count)
        for answer, count in told.answers
    ]
    came = [answer for answer, _ in told.answers]
    found += [("Never", answer, 0) for answer in allowed.answers if answer not in came]
    return tuple(found)


@dataclass
class Report:
    """All verdicts on a kernel.  @kernel: its release; @model: the release of the model."""

    kernel: str
    model: str
    verdicts: list[Verdict] = field(default_factory=list)

    def of(self, outcome: str) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome == outcome]

    @property
    def agrees(self) -> bool:
        return not self.of("different")

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "model": self.model,
            "cases": len(self.verdicts),
            "same": len(self.of("same")),
            "known": [_verdict_json(verdict) for verdict in self.of("known")],
            "different": [_verdict_json(verdict) for verdict in self.of("different")],
            "missing": {verdict.case: verdict.why for verdict in self.of("missing")},
            "skipped": {verdict.case: verdict.why for verdict in self.of("skipped")},
            "frequencies": {
                verdict.case: [
                    {"word": word, "answer": answer, "count": count}
                    for word, answer, count in verdict.frequencies
                ]
                for verdict in self.verdicts
                if verdict.frequencies
            },
        }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "case": verdict.case,
        "why": verdict.why,
        "commits": [row.commit for row in verdict.rows],
        "observations": [
            {
                "key": observation.key,
                "model": list(observation.model),
                "kernel": [[value, count] for value, count in observation.kernel],
            }
            for observation in verdict.observations
        ],
    }
