"""Eight fake devices for every test, asked for before jax is imported, and hypothesis' profile."""

import os

from hypothesis import settings

DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci")
