"""What a message means where it stands: after other turns, or to an app that it asks about itself."""
