"""Python processes that tests start."""

import sys

# As this one was started: without site-packages' hooks where it has none, so that the same kvcore
# is imported.
PYTHON = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
