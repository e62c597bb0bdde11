"""`python -m qdr_train RECIPE --data CSV --out RUN`: the train command on its own."""

from __future__ import annotations

import sys

from qdr_edge.cli import main

main(["train", *sys.argv[1:]])
