"""The commands, one file each; slow imports wait until a command runs."""
