"""``python -m mmctx``: for launchers, which start modules or files."""

import sys

from mmctx.engine.command import main

sys.exit(main())
