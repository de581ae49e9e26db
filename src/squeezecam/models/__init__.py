"""Where ``--model`` strings become models: specifications, weights files, class labels, optional packages."""
