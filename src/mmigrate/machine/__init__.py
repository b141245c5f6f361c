"""A modelled computer: `boot` makes the kernel, `Machine` and `Process` are its face to users."""
