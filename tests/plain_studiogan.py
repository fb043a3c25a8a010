"""StudioGAN's own main.py, on the CPU, with no plug-in: plain_studiogan.py SOURCE ARGS."""

import runpy
import sys

from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu

sys.dont_write_bytecode = True
source = sys.argv.pop(1)
sys.path.insert(0, source)
redirect_devices_to_cpu()
runpy.run_path(f"{source}/main.py", run_name="__main__")
