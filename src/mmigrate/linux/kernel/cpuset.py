"""TEMPORARY"""


def cpuset_mems_allowed(task):
    return task.kernel.node_states_memory
