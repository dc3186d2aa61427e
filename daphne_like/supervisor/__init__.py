"""Processes: who starts, watches and replaces those which serve."""
