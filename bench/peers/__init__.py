"""What onstream is measured against, one file each, every peer in the configuration that is fastest for it."""
