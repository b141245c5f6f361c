"""The primitives: the only place where a task can lose the CPU, and the only place that announces shared accesses."""
