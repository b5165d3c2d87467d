"""The numbers that the app shows, and the commands that measure them: `python -m grit_app.benchmark latency`."""
