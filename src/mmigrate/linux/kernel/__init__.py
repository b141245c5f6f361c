"""The primitives: the only code that announces shared accesses, and can lose the CPU."""
