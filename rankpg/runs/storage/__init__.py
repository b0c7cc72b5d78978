"""Files of a run: settings, metrics, checkpoints, dataset, card and trackers."""
