"""Many runs: sweeps, from plain data to a table with a row for each, and replay of policies on recorded runs."""
