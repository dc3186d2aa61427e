"""
A project's own process for live servers, in a module that imports all there is.

Where processes are spawned, a new one imports this before anything else of its test.
"""

from __future__ import annotations

import channels.testing
from daphne.testing import DaphneProcess

from .models import Line

assert channels.testing.ChannelsLiveServerTestCase.ProtocolServerProcess
assert Line.__name__


class OwnProcess(DaphneProcess):  # type: ignore[misc] # found only at run time
    """The same process, of another class."""
