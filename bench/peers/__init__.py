"""What onstream is measured against: a file each, every peer in the configuration that is best for it."""
