"""Runs, records and tables of the paper; speed; studies of single questions."""
