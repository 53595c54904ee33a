"""The HTTP side of the server: paths, what they take and answer, what stands before them."""
