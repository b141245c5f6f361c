"""Runs of both searches to their end, with everything they met: for comparisons."""

from mmigrate.explore.dpor import Optimal
from mmigrate.explore.execution import Ending, Indices
from mmigrate.explore.strategies import Chosen, DepthFirst
from mmigrate.explore.target import Target
from mmigrate.explore.trace import Trace


def brute_force(scenario, limit=None, final=lambda machine: None, **options):
    """All interleavings: {class: (violations, final state)}, and how many; None if more than
    @limit."""
    target, strategy, indices = Target.of(scenario, options), DepthFirst(), Indices()
    classes, count = {}, 0
    while strategy.begin():
        run = Chosen(indices, 5000, [], keep_going=True)
        run.strategy = strategy
        outcome = target.execute(run)
        count += 1
        if limit is not None and count > limit:
            return None
        trace = Trace()
        trace.extend(run, run.new)
        classes.setdefault(trace.fingerprint(), met(outcome, final))
    return classes, count


def reduced(scenario, limit=None, final=lambda machine: None, **options):
    """The same with partial-order reduction; also how many were given up as redundant."""
    target, search = Target.of(scenario, options), Optimal()
    classes, count, redundant = {}, 0, 0
    while (run := search.next_execution(5000, keep_going=True)) is not None:
        outcome = target.execute(run)
        count += 1
        search.take_in(run)
        if outcome.ending is Ending.REDUNDANT:
            redundant += 1
        else:
            classes.setdefault(search.trace.fingerprint(), met(outcome, final))
        search.backtrack()
        if limit is not None and count > limit:
            return None
    return classes, count, redundant


def met(outcome, final):
    return tuple(sorted(map(str, outcome.violations))), final(outcome.machine)
