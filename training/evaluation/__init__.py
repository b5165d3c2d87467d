"""What a checkpoint can do, measured through the serving path and beside baselines; see `training.evaluate`."""
