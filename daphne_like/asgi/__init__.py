"""The meaning of HTTP and WebSocket to ASGI messages, and back; no versions."""
