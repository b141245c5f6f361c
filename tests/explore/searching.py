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


def reduced_traces(scenario):
    """Each execution of the reduced search, as its class is named."""
    target, search, found = Target.of(scenario, {}), Optimal(), []
    while (run := search.next_execution(5000, keep_going=True)) is not None:
        target.execute(run)
        search.take_in(run)
        found.append(least(search.trace, run))
        search.backtrack()
    return found


def brute_force_traces(scenario):
    """The same of each interleaving."""
    target, strategy, indices, found = Target.of(scenario, {}), DepthFirst(), Indices(), []
    while strategy.begin():
        run = Chosen(indices, 5000, [], keep_going=True)
        run.strategy = strategy
        target.execute(run)
        trace = Trace()
        trace.extend(run, run.new)
        found.append(least(trace, run))
    return found


def least(trace, run):
    """The steps in the order in which the task with the least number goes first."""
    words, left, taken = run.words(), list(range(len(trace))), 0
    steps = []
    while left:
        ready = [n for n in left if not trace.before[n] & ~taken & ~(1 << n)]
        chosen = min(ready, key=lambda n: trace.tasks[n])
        left.remove(chosen)
        taken |= 1 << chosen
        task, name, _ = words[chosen]
        steps.append(f"{task}{'RW'[trace.kinds[chosen]]} {name}")
    return ", ".join(steps)
