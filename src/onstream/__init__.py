"""onstream: train a model on a live stream and serve it while it learns."""
