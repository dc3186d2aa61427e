"""
Side-by-side benchmarks of daphne_like and its peers; ``python -m benchmarks``.

Benchmarks are no tests: nothing here is imported by the package or its test suite.
The way of a run:
each of ``servers`` with each of ``workloads`` → ``measurements``, which uses
``processes``, ``exchange`` (is an answer right?) and ``load`` → ``reports``.
``soak`` is a second program, for the flatness of memory.
``workers`` is a third one, for several workers and for reloads under load.
"""
