"""`fednas bench`: named workloads, how they are measured, and the one-client-after-another baseline.

`options` and `workloads` need no jax, so that --help and mistakes answer at once; `run` does the measuring.
"""
