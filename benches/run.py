#!/usr/bin/env python3
"""Dovetail beside other programs, as real processes on this machine. See README.md of this folder.

    cargo build --release && python3 benches/run.py all
"""

import sys

from side_by_side.main import main

sys.exit(main())
