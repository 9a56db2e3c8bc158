"""Text to rows, a block at a time; what files and messages share."""
