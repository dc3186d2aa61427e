"""
Several processes which serve, and the one that watches over them.

:mod:`.workforce` decides who is to be started and stopped; it knows no process.
:mod:`.supervisor` is the process which obeys it, :mod:`.worker` the one which serves,
and :mod:`.channel` what they tell each other. :mod:`.starting` makes the one from the
other. In development :mod:`.reload` tells of changed files, which a process of its own
looks for (:mod:`.changes`).
"""
