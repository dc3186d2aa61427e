"""Bytes to the meaning of HTTP and WebSocket, and back; no ASGI."""
