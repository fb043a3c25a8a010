"""Makes every CUDA device the CPU, in each process that has this folder on its import path.

With it, and with nothing else of ours, a test runs `python src/main.py` as a user does.
"""

import os

from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu

redirect_devices_to_cpu(int(os.environ.get("CPU_RANKS", "1")))
