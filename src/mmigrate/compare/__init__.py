"""Model against kernel: the same scenarios on both, answer by answer.

cases        scenarios that return what they saw
answers      runs a case on a machine, modelled or real; the only part that a guest needs
model        all answers that the model allows
kernels      answers of the kernel here, of one booted for it, and of recorded ones
differences  the table of known differences
verdicts     one side held against the other
programs     generated programs; `fuzz` runs them on both sides, `shrink` makes them small
"""
