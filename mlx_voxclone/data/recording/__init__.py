"""What `prepare` tells of the recordings that it is given."""
