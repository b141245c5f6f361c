"""All answers that the model allows to a case."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

from mmigrate.compare.answers import COMPLAINTS, Answer, Watched, add_answer, answer
from mmigrate.compare.cases import Case
from mmigrate.errors import KernelBug, ScenarioError
from mmigrate.machine.machine import Machine

MAX_STEPS: Final = 1_000_000
SEEDS: Final = 60  # interleavings of a case whose tasks race
_NOT_MODELLED: Final = ("has no attribute", "unexpected keyword argument")


class Interleaved(Watched):
    """A modelled machine whose tasks go on for a while before another has its turn: for some seeds
    to their end, for others for one access."""

    def run(self) -> None:
        self.raced = True
        generator = random.Random(self._seed)
        patience = (1.0, 0.98, 0.9, 0.0)[(self._seed or 0) % 4]
        current: list[Any] = [None]

        def choose(enabled: list[Any], _running: Any) -> Any:
            if current[0] not in enabled or generator.random() >= patience:
                current[0] = generator.choice(enabled)
            return current[0]

        self._machine.kernel.scheduler.steps = 0
        self._machine.kernel.scheduler.max_steps = MAX_STEPS
        self._machine.kernel.scheduler.run(choose)


@dataclass(frozen=True)
class Allowed:
    """@answers: at least one, unless @missing says what the model lacks."""

    answers: tuple[Answer, ...] = ()
    missing: str | None = None
    raced: bool = field(default=False, compare=False)


def allowed_answers(case: Case, kernel: str, seeds: int = SEEDS) -> Allowed:
    """What the model of @kernel can answer: one answer, or, where tasks race, those of many
    interleavings.  Raises ScenarioError: the case raised something."""
    found: list[tuple[Answer, int]] = []
    raced = False
    for seed in range(seeds):
        machine = Interleaved(Machine(**{**case.scenario.options, "kernel": kernel}), seed)
        try:
            add_answer(found, answer(case.scenario.function, machine))
        except KernelBug as bug:
            add_answer(found, {COMPLAINTS: [f"BUG: {bug}"]})
        except (AttributeError, TypeError) as error:
            if any(words in str(error) for words in _NOT_MODELLED):
                return Allowed(missing=str(error))
            raise ScenarioError(f"{case.name} raised {type(error).__name__}: {error}") from error
        except ScenarioError as error:
            raise ScenarioError(f"{case.name}: {error}") from error
        except Exception as error:
            raise ScenarioError(f"{case.name} raised {type(error).__name__}: {error}") from error
        raced = machine.raced
        if not raced:
            break
    return Allowed(tuple(each for each, _ in found), raced=raced)
