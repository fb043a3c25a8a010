"""How fast things are: one file per thing that is measured."""
