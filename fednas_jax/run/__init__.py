"""One run: problem, session, rounds, state, folder, checkpoints, results."""
