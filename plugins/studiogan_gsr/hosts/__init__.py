"""The two hosts, and what they share."""
