"""What tells how a server is while it runs, and takes orders."""
