"""Make every CUDA device mean the CPU in each Python process that has this folder on PYTHONPATH.

A test can then run `python src/main.py` as a user does.  CPU_RANKS: the number of devices, 1 by default.
"""

import os

from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu

redirect_devices_to_cpu(int(os.environ.get("CPU_RANKS", "1")))
