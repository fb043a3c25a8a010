"""The commands, one file each, and what they print at the end; slow imports wait until a command runs."""
