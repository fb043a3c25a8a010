"""Tables: rows to run, runs, records, and what is written from them."""
