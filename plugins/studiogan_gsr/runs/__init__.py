"""What is done with finished runs of either host: load, measure, inspect, report; and the demo."""
