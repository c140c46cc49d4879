"""Programs that want all there is: one entry each, run inside by `test_exhaustion.py`, with a limit that they pass."""

from exhaustion.disk import COMPILERS, DISK
from exhaustion.greedy import FULL, Greedy
from exhaustion.memory import MEMORY
from exhaustion.running import PROCESSES, TIME
from exhaustion.tables import OUTPUT, TABLES

GREEDY = (*MEMORY, *PROCESSES, *DISK, *OUTPUT, *TIME, *TABLES, *COMPILERS)

__all__ = ["FULL", "GREEDY", "Greedy"]
