"""
The notice board as a program of twistd: ``twistd -ny board.tac``.

Then ``curl -d hello localhost:8000``, ``echo hello | nc localhost 8001``, and
``curl localhost:8000``.
"""

import logging
import os
import sys

# Before anything imports the reactor.
from daphne_like.reactor import install

install()

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString

from daphne_like import Server
from daphne_like.observability.logs import TwistedHandler

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import board

WEB = os.environ.get("BOARD_WEB", "tcp:8000:interface=127.0.0.1")
LINES = os.environ.get("BOARD_LINES", "tcp:8001:interface=127.0.0.1")

# What the server logs goes to twistd's log.
logging.basicConfig(
    level=logging.INFO, format="%(message)s", handlers=[TwistedHandler()]
)

# twistd looks for this name.
application = Application("notice board")

notices = board.Board()
notices.setServiceParent(application)

lines = serverFromString(reactor, LINES)
StreamServerEndpointService(lines, board.LinesFactory(notices)).setServiceParent(
    application
)

Server(board.Application(notices), [WEB]).setServiceParent(application)
