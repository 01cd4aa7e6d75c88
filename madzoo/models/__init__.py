"""Model families, one file each; importing this package registers every architecture."""
