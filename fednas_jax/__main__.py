"""`python -m fednas_jax` is `fednas`."""

import sys

from fednas_jax.cli import main

sys.exit(main())
