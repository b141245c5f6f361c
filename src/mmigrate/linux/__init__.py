"""The modelled kernel, in the tree of Linux v3.19: `mm/migrate.c` is `linux/mm/migrate.py`."""
