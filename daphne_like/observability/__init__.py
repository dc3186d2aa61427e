"""What the server tells about itself: logs and the access log."""
