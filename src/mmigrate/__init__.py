"""Linux page migration, v3.19, as a library."""
