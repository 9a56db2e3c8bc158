"""Serving: predictions from the checkpoint log, seconds fresh, over standard protocols."""
