"""The site: settings, addresses, and the application which a server serves."""
