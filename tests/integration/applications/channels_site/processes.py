"""
A project's own process for live servers, in a module that also imports Channels.

Where processes are spawned, a new one imports this before anything else of its test.
"""

from __future__ import annotations

import channels.testing
from daphne.testing import DaphneProcess

assert channels.testing.ChannelsLiveServerTestCase.ProtocolServerProcess


class OwnProcess(DaphneProcess):  # type: ignore[misc] # found only at run time
    """The same process, of another class."""
