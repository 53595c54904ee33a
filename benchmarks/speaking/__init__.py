"""The miniature that can speak: made here, from nothing, on the package's synthetic speakers and their language."""
