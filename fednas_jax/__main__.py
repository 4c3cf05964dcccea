"""`python -m fednas_jax` is `fednas`."""

import sys

from fednas_jax.cli.app import main

sys.exit(main())
