"""The machine: hosts, cores, caches, timing."""
