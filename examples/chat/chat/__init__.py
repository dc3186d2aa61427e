"""Rooms in which people who have signed up talk to each other."""
