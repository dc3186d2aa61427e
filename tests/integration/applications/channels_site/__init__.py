"""A chat with Django and Channels, as a project written for Daphne has it."""
