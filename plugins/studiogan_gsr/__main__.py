"""Run the command `studiogan-gsr` as `python -m studiogan_gsr`."""

from studiogan_gsr.cli import main

raise SystemExit(main())
