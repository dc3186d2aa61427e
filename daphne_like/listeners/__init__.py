"""Where connections come from: endpoint strings, sockets, transports."""
