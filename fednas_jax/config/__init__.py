"""What a run is: frozen records, their bounds, methods and presets. No jax here."""
